"""Heads and terms as they are trained, their losses, and the folders they are written to."""
