"""What speculation is trusted by: answers compared by the million, and hours under load."""
