"""Drafts filled as they are served, with the true tokens: what a recurrent term learns from.

Every position of a text is taken for the newest one of an engine step. Its draft reads each head
on the rows at the lags of backward decoding (arXiv 2505.17505, section 3), and the term all true
tokens before the place; the place is to name the token that comes there.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.training.data.rows import IGNORE
from vllm_lmtp.training.model.heads import LeapHeads
from vllm_lmtp.training.model.recurrent import RecurrentTerm


@dataclass(frozen=True)
class Place:
    """One place of all drafts that have a label there.

    head: the head that fills it. rows: [N, H], what its output matrix reads. state: [N, r], the
    term's. labels: int64 [N].
    """

    head: int
    rows: Tensor
    state: Tensor
    labels: Tensor


def places(
    heads: LeapHeads,
    term: RecurrentTerm,
    stride: int,
    hidden: Tensor,
    labels: Tensor,
    tokens: Tensor,
) -> list[Place]:
    """The places of the drafts at every position that has all rows they read.

    Args:
        hidden: [B, T, H]. labels: int64 [B, T'], T' >= T, IGNORE where there is nothing to learn.
        tokens: int64 [B, T'], the labels without gaps.
    """
    schedule = LeapSchedule(len(heads), stride)
    oldest, last = stride - 1, hidden.shape[1]
    # So that every place of every position has a label, if only one to be ignored.
    room = (0, last + schedule.max_drafts + 1 - labels.shape[1])
    labels, tokens = pad(labels, room, value=IGNORE), pad(tokens, room)
    read = [head.trunk(hidden) for head in (heads[i] for i in range(len(heads)))]
    state = term.begin(hidden[:, oldest:])
    found = []
    for draft, source in enumerate(schedule.sources(schedule.max_drafts)):
        state = term.read(state, tokens[:, oldest + draft + 1 : last + draft + 1])
        wanted = labels[:, oldest + draft + 2 : last + draft + 2]
        kept = wanted != IGNORE
        rows = read[source.head][:, oldest - source.lag : last - source.lag]
        found.append(Place(source.head, rows[kept], state[kept], wanted[kept]))
    return found
