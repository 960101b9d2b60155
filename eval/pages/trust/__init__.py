"""Pages and pictures of `eval/trust`."""
