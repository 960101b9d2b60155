"""By what share another length must be better than the one in use to take over."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_lmtp.length.sizes import Weighed

PAYS, BETTER, SURE_DRAFTING, SURE_LONGER, SURE_SHORTER = 0.02, 0.01, 1.15, 0.6, 0.3
"""A share, PAYS where nothing is drafted, and so many standard errors. More is asked to draft at
all than for a longer draft, and for that more than for a shorter one; plain decoding takes over as
soon as it seems best. For being slower than plain decoding is worse than missing a small gain."""
COPIES_BETTER, COPIES_SURE = 0.005, 0.3
"""The same of copies alone against heads, and how sure they must be against anything. They cost
little where they are wrong: only what is worth its row is verified, and nothing is where the text
is silent."""


def least_gain(used: int, other: Weighed, lengths: Sequence[int]) -> float:
    """The least share.

    Args:
        used: the length in use. lengths: all, in their order.
    """
    if other.length < 0:
        return (COPIES_BETTER if used else PAYS) + COPIES_SURE * other.error
    if not other.length:
        return 0.0 if used > 0 else BETTER
    if not used:
        return PAYS + SURE_DRAFTING * other.error
    longer = lengths.index(other.length) > lengths.index(used)
    return BETTER + (SURE_LONGER if longer else SURE_SHORTER) * other.error
