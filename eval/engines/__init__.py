"""Engines under measurement: one or many, in this process or others, method by method."""
