"""Scorers made, shrunk and calibrated for heads that exist."""
