"""Triton kernels for GPUs. Nothing else may import them at its top: CPUs may lack Triton."""
