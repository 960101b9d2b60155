"""Fixtures of several files."""

from tests.eval.stand_in import stand_in

__all__ = ["stand_in"]
