"""What drafts cost and yield where their tail is cut by `lmtp_min_confidence`.

Answers are walked through as by an engine: a step emits the token that the target sampled and those
of its draft that were right, and the next one drafts behind them. An answer's last position is left
out, as no token is there to judge its draft by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vllm_lmtp.method.confidence import Confidence, worth_verifying
from vllm_lmtp.training.judging.observed_drafts import Drafts

LEAST = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


@dataclass(frozen=True)
class Cut:
    """One `lmtp_min_confidence`. kept: the share of drafted tokens that is verified. accepted: the
    share of those that is right. length: tokens a step. rows: rows that the target computes for
    each token."""

    least: float
    kept: float
    accepted: float
    length: float
    rows: float


def cut_at(drafts: Sequence[Drafts], confidence: Confidence, least: float) -> Cut:
    """Walk through answers with one `lmtp_min_confidence`.

    Args:
        drafts: of all positions of each answer, with at least one position in all.
    """
    steps = verified = accepted = 0
    for answer in drafts:
        stated = confidence.of_drafts(answer.odds)
        kept = worth_verifying(stated, least).sum(dim=1)
        right = kept.minimum(answer.right)
        place = 0
        while place < len(right):
            steps += 1
            verified += int(kept[place])
            accepted += int(right[place])
            place += 1 + int(right[place])
    tokens = steps + accepted
    places = drafts[0].odds.shape[1]
    return Cut(
        least,
        kept=verified / (steps * places),
        accepted=accepted / max(verified, 1),
        length=tokens / steps,
        rows=(steps + verified) / tokens,
    )
