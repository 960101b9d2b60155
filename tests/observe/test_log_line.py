"""The line about copies beside vLLM's own, on vLLM's own log of speculation.

The plugin is registered: another test in this process may have done it as well, and vLLM's log
calls ours then.
"""

from __future__ import annotations

from typing import Any

import pytest
from vllm.v1.spec_decode.metrics import SpecDecodingLogging, SpecDecodingStats

from vllm_lmtp.observe.carried import (
    LengthReport,
    SizeInUse,
    add_cold_draft,
    add_copied_tokens,
    add_length_report,
)
from vllm_lmtp.plugin import register


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    register()


def observe(logging: Any, drafted: int, accepted: int, copies: tuple[int, int] | None) -> None:
    """One step of one draft; copies: of its drafted and accepted tokens."""
    stats = SpecDecodingStats.new(6)
    stats.observe_draft(drafted, accepted)
    if copies is None:
        add_cold_draft(stats)
    else:
        add_copied_tokens(stats, *copies)
    logging.observe(stats)


def logged(logging: Any) -> list[str]:
    """What is said of copies, beside vLLM's own line."""
    lines: list[str] = []
    logging.log(log_fn=lambda text, *args: lines.append(text % args))
    return [line for line in lines if line.startswith("L-MTP")]


def test_copies_are_told_as_a_share_of_what_vllm_counts() -> None:
    logging = SpecDecodingLogging()
    observe(logging, 6, 4, (3, 2))
    observe(logging, 5, 0, None)
    observe(logging, 6, 6, (6, 6))
    (line,) = logged(logging)
    assert line.endswith("9 of 17 drafted tokens, 8 of 10 accepted tokens")


def test_every_line_tells_what_came_since_the_last() -> None:
    logging = SpecDecodingLogging()
    observe(logging, 6, 4, (3, 2))
    assert len(logged(logging)) == 1
    observe(logging, 6, 1, (1, 0))
    (line,) = logged(logging)
    assert line.endswith("1 of 6 drafted tokens, 0 of 1 accepted tokens")


def test_nothing_is_said_where_nothing_was_copied() -> None:
    logging = SpecDecodingLogging()
    assert logged(logging) == []
    observe(logging, 6, 4, None)
    observe(logging, 6, 4, (0, 0))
    assert logged(logging) == []


def test_lengths_are_told_where_they_are_found_while_serving() -> None:
    """Also where nothing was drafted: vLLM has no line of its own then."""
    logging, stats = SpecDecodingLogging(), SpecDecodingStats.new(6)
    sizes = [SizeInUse(1, 3, 1234), SizeInUse(8, 0, 1000)]
    add_length_report(stats, LengthReport({0: 4}, sizes))
    logging.observe(stats)
    (line,) = logged(logging)
    assert line.endswith(": 3 up to 1 (1.23), 0 up to 8 (1.00)")
    assert logged(logging) == []
