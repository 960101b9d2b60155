"""Beside vLLM's scheduler: the draft length of each step, and a file of what was learnt of it."""
