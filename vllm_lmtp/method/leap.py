"""The leap schedule: which head, read at which lag, fills which place of the draft.

Integers only. A head i (0-based) read at position t predicts the token at t + 1 + k(i + 1), where
k is the stride (`skip_token` on disk). The model itself gives t + 1. To fill the offsets between,
*backward decoding* reads the same heads on the hidden states of earlier positions: offset o is
filled by head ceil((o - 1) / k) - 1 read `lag` positions back (arXiv 2505.17505, section 3,
equation 6; read literally, that equation swaps lags for k >= 3, see docs/design.md).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Where one draft token comes from.

    head: 0-based head. lag: how many positions before the last finalised one its row lies, 0..k-1.
    """

    head: int
    lag: int


@dataclass(frozen=True)
class LeapSchedule:
    """The schedule of `n_heads` heads with stride `stride`; stride 1 is Medusa.

    Drafts are indexed from 0: draft p is the token at offset p + 2, since offset 1 is the token
    that the target itself has just sampled.

    Raises:
        ValueError: n_heads or stride is below 1.
    """

    n_heads: int
    stride: int

    def __post_init__(self) -> None:
        if self.n_heads < 1 or self.stride < 1:
            raise ValueError(
                f"a leap schedule needs n_heads >= 1 and stride >= 1, "
                f"got {self.n_heads} and {self.stride}"
            )

    @property
    def max_drafts(self) -> int:
        """The longest draft, n * k tokens."""
        return self.n_heads * self.stride

    def offset_of_head(self, head: int) -> int:
        """Distance from a row to the token that `head` predicts from it: 1 + k(head + 1)."""
        return 1 + self.stride * (head + 1)

    def source(self, draft: int) -> Source:
        """Head and lag of draft place `draft` (0-based).

        Raises:
            IndexError: `draft` is outside 0..n*k-1.
        """
        if not 0 <= draft < self.max_drafts:
            raise IndexError(f"draft {draft} is outside 0..{self.max_drafts - 1}")
        head, place = divmod(draft, self.stride)
        return Source(head=head, lag=self.stride - 1 - place)

    def sources(self, num_drafts: int) -> tuple[Source, ...]:
        """Sources of the first `num_drafts` places, in draft order."""
        return tuple(self.source(p) for p in range(num_drafts))

    def heads_needed(self, num_drafts: int) -> int:
        """How many heads must be computed for a draft of `num_drafts` tokens."""
        return -(-num_drafts // self.stride)
