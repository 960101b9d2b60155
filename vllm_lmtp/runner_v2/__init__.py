"""The adapter for Model Runner V2, vLLM's default on GPUs."""
