"""Fixtures of several files."""

from tests.support.engine_stand_in import stand_in

__all__ = ["stand_in"]
