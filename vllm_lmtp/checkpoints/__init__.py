"""The models this package brings or prepares, and what they are asked."""
