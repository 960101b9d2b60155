"""How this package says no: every refusal names the place, what stood there and what to do.

Knows nothing of torch or vLLM. Several refusals are raised together, so that a user mends a
checkpoint or a command line once and not one message at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
            f"{self.where}: {self.field}: found {self.found}; "
            f"expected {self.expected}. Remedy: {self.remedy}"
        )


class LMTPError(ValueError):
    """Raised for anything this package refuses; `refusals` lists every reason."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        if len(self.refusals) == 1:
            text = f"L-MTP: {self.refusals[0]}"
        else:
            lines = "\n".join(f"  {i}. {r}" for i, r in enumerate(self.refusals, 1))
            text = f"L-MTP: {len(self.refusals)} reasons:\n{lines}"
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
