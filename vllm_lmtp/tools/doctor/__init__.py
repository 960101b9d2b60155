"""What `vllm-lmtp doctor` looks at, finding by finding."""
