"""The model of the tests that start engines."""

from __future__ import annotations

from tests.distributed.test_faults import run
from tests.engine.conftest import chain, chain_folder

__all__ = ["chain", "chain_folder", "run"]
