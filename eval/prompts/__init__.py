"""Prompt sets, and asking a model."""
