"""What the demo asks a chat model: one of each kind of thing that people ask, written for it."""

QUESTIONS = (
    "Why does the sky turn red in the evening? Explain it to a child.",
    "Write a short poem about a lighthouse in a storm.",
    "A baker makes 24 rolls and sells three quarters of them. How many are left? Show the steps.",
    "Write a Python function that returns the longest word in a sentence.",
    "Make a list of five things to pack for a day in the mountains, each with a reason.",
    "Rewrite this politely: send me the report now, you are late again.",
    "What is the difference between weather and climate?",
    "Name three uses of copper and say which property makes it suited to each.",
)
