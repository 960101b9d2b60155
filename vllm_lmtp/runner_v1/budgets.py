"""Thinking budgets on Model Runner V1: vLLM's own states, taken through tokens one by one.

vLLM has them for plain decoding, where a step adds one token and each request has one row. Here a
request's state is taken through the tokens of the last step, and copies of it through its drafts,
so that the row behind each draft has the state that it would have if those before it are accepted.
Goes with Model Runner V1.

A holder is vLLM's `ThinkingBudgetStateHolder`; an `original` is a method of that class.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

SEEN, ROWS = "lmtp_seen", "lmtp_rows"
"""In a request's state: how many of its tokens it was taken through; the states of its rows."""
Tokens = Sequence[list[int]]
REPLAYED = 1024
"""A request that was preempted comes back without its state. An output up to this long is gone
through again token by token, a longer one taken at once, as vLLM does: the whole engine waits, and
each token costs a search through all before it."""


def update(original: Callable[..., Any], holder: Any, outputs: Tokens, drafts: Tokens) -> None:
    """Take the states through what came since the last step, and copies of them through the drafts.

    Args:
        outputs, drafts: tokens of each request, those it has and those to be verified.
    """
    for index, state in holder._state.items():
        output, draft = outputs[index], drafts[index]
        first = state.get(SEEN, -1) + 1
        if len(output) - first > REPLAYED:
            first = len(output)
        for length in range(first, len(output) + 1):
            original(_plain(holder, {0: state}), [output[:length]], None)
        state[SEEN], rows = len(output), [state]
        for length in range(1, len(draft) + 1):
            rows.append(copy.copy(rows[-1]))
            original(_plain(holder, {0: rows[-1]}), [output + draft[:length]], None)
        state[ROWS] = rows


def apply(
    original: Callable[..., Any], holder: Any, logits: torch.Tensor, last: bool, drafts: Tokens
) -> Any:
    """Force the ends that are due in these rows.

    Args:
        logits: the row behind all drafts of each request if `last` or without drafts, else the row
            of each draft. It is written to.

    Returns:
        What the original returns: the logits.
    """
    states: dict[int, Any] = {}
    if last or not any(drafts):
        states = {index: state[ROWS][-1] for index, state in holder._state.items()}
    else:
        for index, state in holder._state.items():
            first = sum(map(len, drafts[:index]))
            states |= {first + place: row for place, row in enumerate(state[ROWS][:-1])}
    return original(_plain(holder, states), logits, False, [])


def _plain(holder: Any, states: Mapping[int, Any]) -> Any:
    """A holder of these states that knows no drafts: each has the row of its number."""
    plain = copy.copy(holder)
    plain.in_spec_mode, plain._state, plain.cu_num_tokens = False, states, {}
    return plain
