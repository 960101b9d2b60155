"""What belongs to one size of batch: what its steps cost, and how its lengths were weighed last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_lmtp.length.cost import StepTime


@dataclass(frozen=True)
class Weighed:
    """A length for a number of requests.

    tokens: a request and step, expected. seconds: of a step. error: standard error of the rate
    against that of the length in use, as a share of it. seconds_error: of how much longer a step
    takes than one of the length in use. told: of plain decoding, the part of that which a plain
    step would take away. hoped: tokens, in the kindest text.
    """

    length: int
    tokens: float
    seconds: float
    error: float
    seconds_error: float
    told: float
    hoped: float

    @property
    def rate(self) -> float:
        """Tokens a second and request."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Reason:
    """Of the length in use: tokens a request and step expected, seconds of such a step, and of a
    plain one."""

    tokens: float
    seconds: float
    plain: float


class Size:
    """What belongs to one size of batch."""

    def __init__(self, lengths: Sequence[int], most: int) -> None:
        # The rows of copies cost what others do.
        lengths = [length for length in lengths if length >= 0]
        self.time = StepTime(lengths, most)
        self.length = 0
        self.weighed: list[Weighed] = []
        self.weighed_at = -math.inf
        self.first: list[float] = []
        self.plain_seen = 0.0

    def of(self, length: int) -> Weighed:
        """A length as it was weighed last."""
        return next(weighed for weighed in self.weighed if weighed.length == length)


def size_of(num_requests: int) -> int:
    """The size of batch, named by its most requests: a power of two."""
    return 1 << max(0, num_requests - 1).bit_length()
