"""Drafts found by a search over several tokens a place, to see whether that beats the best token.

The serving decoder takes the best token of each place in turn. Here a number of unfinished drafts
is kept, and each goes on with its most likely tokens. Nothing serves this: it decides a trade-off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.method.scorer import Scorer
from vllm_lmtp.training.judging.observed_drafts import PlainHeads

LENGTH = "length"
PRODUCT = "product"


@dataclass(frozen=True)
class Beam:
    """How drafts are searched. width: drafts kept. tokens: with how many each goes on at a place.
    by: "product", the probability of the whole draft; or "length", the sum of the probabilities of
    its prefixes, which is how many of its tokens are to be expected to be accepted."""

    width: int
    tokens: int
    by: str = PRODUCT

    def __str__(self) -> str:
        return f"{self.width}x{self.tokens}:{self.by}"


def parse_beam(word: str) -> Beam | None:
    """WIDTHxTOKENS, and `:length` or `:product`, the default; None for anything else."""
    found = re.fullmatch(rf"([1-9]\d{{0,2}})x([1-9]\d{{0,2}})(?::({LENGTH}|{PRODUCT}))?", word)
    if found is None:
        return None
    return Beam(int(found[1]), int(found[2]), found[3] or PRODUCT)


def search(
    heads: PlainHeads,
    scorer: Scorer,
    schedule: LeapSchedule,
    states: Tensor,
    sampled: Tensor,
    beam: Beam,
) -> Tensor:
    """The best draft that a beam finds, [R, m] int64, all places long.

    Args:
        states, sampled: as in `BackwardDecoder.fill`.
    """
    steps, stride, size = states.shape
    each = torch.arange(steps)[:, None]
    previous, paths = sampled[:, None], sampled.new_empty(steps, 1, 0)
    product = worth = torch.zeros(steps, 1)
    known = scorer.begin(states[:, -1])[:, None]
    for place in range(schedule.max_drafts):
        head, inner = divmod(place, stride)
        width = previous.shape[1]
        logits = heads.logits(states.reshape(-1, size), head)
        of_place = logits.view(steps, stride, 1, -1)[:, inner].repeat(1, width, 1).flatten(0, 1)
        known = scorer.read(known.flatten(0, 1), previous.flatten())
        likely = scorer.add(of_place, head, known).log_softmax(dim=-1)
        found, ids = likely.topk(min(beam.tokens, likely.shape[1]), dim=1)
        products = (product[:, :, None] + found.view(steps, width, -1)).flatten(1)
        worths = (worth[:, :, None] + products.view(steps, width, -1).exp()).flatten(1)
        judged = worths if beam.by == LENGTH else products
        kept = judged.topk(min(beam.width, judged.shape[1]), dim=1).indices
        parent = kept // found.shape[1]
        product, worth = products.gather(1, kept), worths.gather(1, kept)
        previous = heads.target_tokens(ids).view(steps, -1).gather(1, kept)
        known = known.view(steps, width, *known.shape[1:])[each, parent]
        paths = torch.cat([paths[each, parent], previous[:, :, None]], dim=2)
    return paths[:, 0]  # topk is in order
