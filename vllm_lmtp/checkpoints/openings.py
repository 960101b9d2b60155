"""Openings of stories, for the demo and for text that a model writes itself.

Plain ones, in the manner of the stories that the embedded checkpoint learnt from: a model of a
million parameters has nothing to say about anything else.
"""

OPENINGS = (
    "Once upon a time, there was a little girl named",
    "One day, a boy named Tim went to the park with his",
    "Lily and Ben were playing in the garden when they saw a",
    "Once upon a time, in a big forest, there lived a",
    "The little dog was very sad because",
    "Tom had a new red car. He liked to",
    "One sunny morning, Mia and her mom went to the",
    "There was a cat who wanted to",
    "Sara found a shiny stone near the",
    "The big bear was hungry. He looked for",
    'Max said, "Mom, can I',
    "A small bird sat in a tall tree and",
)
