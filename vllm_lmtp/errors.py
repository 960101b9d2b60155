"""How this package says no: every refusal names the place, what stood there and what to do.

Knows nothing of torch or vLLM. Several refusals are raised together, so that a user mends a
checkpoint or a command line once and not one message at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_SHOWN = 100
"""Reasons that a message spells out; nobody reads the ten thousandth."""
LONGEST_PART = 10_000
"""Characters of a place, a field or what was found that it shows."""


@dataclass(frozen=True)
class Refusal:
    """One reason why something cannot work.

    where: the file, folder, command-line option or component that is at fault.
    field: the key, tensor or setting in it.
    found: what stands there, already formatted for a person.
    expected: what should stand there.
    remedy: one action that mends it.
    """

    where: str
    field: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        return (
            f"{_short(self.where)}: {_short(self.field)}: found {_short(self.found)}; "
            f"expected {self.expected}. Remedy: {self.remedy}"
        )


def _short(text: str) -> str:
    """A file may hold names of megabytes."""
    return text if len(text) <= LONGEST_PART else f"{text[:LONGEST_PART]}..."


class LMTPError(ValueError):
    """Raised for anything this package refuses; `refusals` lists every reason."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        if len(self.refusals) == 1:
            text = f"L-MTP: {self.refusals[0]}"
        else:
            shown = enumerate(self.refusals[:MOST_SHOWN], 1)
            lines = [f"  {i}. {r}" for i, r in shown]
            if more := len(self.refusals) - len(lines):
                lines.append(f"  and {more} more")
            text = "\n".join([f"L-MTP: {len(self.refusals)} reasons:", *lines])
        super().__init__(text)

    def __reduce__(self) -> tuple[type[LMTPError], tuple[tuple[Refusal, ...]]]:
        # Errors cross process boundaries (Ray, multiprocessing); the default would pickle the text.
        return (type(self), (self.refusals,))


def raise_refusals(refusals: Sequence[Refusal]) -> None:
    """Raise one `LMTPError` that carries all `refusals`; do nothing when there are none."""
    if refusals:
        raise LMTPError(refusals)


def refuse(where: str, field: str, *, found: object, expected: str, remedy: str) -> LMTPError:
    """Build the error for a single refusal, for `raise refuse(...)`."""
    return LMTPError([Refusal(where, field, str(found), expected, remedy)])
