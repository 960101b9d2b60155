"""The kit that measures on a GPU (docs/gpu.md): the draft alone, and in a real engine."""
