"""What a run learns from: texts, kept rows, what is held out, and the draft vocabulary."""
