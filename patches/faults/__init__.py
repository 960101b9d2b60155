"""Faults of vLLM beside drafts, mended while lmtp is in use."""
