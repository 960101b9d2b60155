"""The adapter for Model Runner V1, which CPUs without Triton run; it goes with that runner."""
