"""What vLLM was asked for, and every refusal before a weight loads."""
