"""Self-distillation: the target answers prompts, and heads learn from its answers."""
