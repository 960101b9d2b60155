"""Openings of stories, for the demo and for text that a model writes itself."""

OPENINGS = (
    "Once upon a time there was a small boat that was afraid of the sea. Every morning",
    "Anna found a key under the old tree. She did not know which door it would open, so",
    "The rain had not stopped for three days, and the little frog was happy because",
    "Tom and his sister wanted to build the tallest tower in the world. First they",
    "There was a bear who could not sleep. He counted the stars, but every time he",
    "One day the moon came down to the garden and knocked on the window. Lily",
    "The baker made a cake so big that nobody could carry it. All the children",
    "A young bird stood at the edge of the nest and looked down. Its mother said",
    "In a quiet village lived a dog who loved to collect lost things. One evening",
    "Ben put on his red coat and went to look for the snow. On the hill he met",
    "The old clock in the kitchen stopped at noon, and then something strange happened.",
    "Mia planted a seed and waited. After a week there was still nothing, so she",
)
