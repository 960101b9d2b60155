"""The drafting side on a device: heads, their weights, and how long a draft takes."""
