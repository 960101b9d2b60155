"""`vllm-lmtp heads`: from a model to heads in one go, in a given time."""
