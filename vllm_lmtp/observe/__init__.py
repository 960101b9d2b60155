"""What operators see: metrics, watchful warnings, and which node speaks."""
