"""The training files in configs/train/: their fields, and reading them strictly."""
