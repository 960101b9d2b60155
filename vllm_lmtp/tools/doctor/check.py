"""One finding of the doctor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vllm_lmtp.errors import LMTPError

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Check:
    """name: what was looked at. status: ok, warning (serves, but look) or problem (cannot serve).
    detail: what was found. remedy: one action; empty when ok."""

    name: str
    status: str
    detail: str
    remedy: str = ""


def problems(name: str, error: LMTPError) -> list[Check]:
    """One problem for each refusal."""
    return [
        Check(
            name,
            PROBLEM,
            f"{r.where}: {r.field}: found {r.found}; expected {r.expected}",
            r.remedy,
        )
        for r in error.refusals
    ]


def has_problem(checks: Iterable[Check]) -> bool:
    """Whether anything stands in the way of serving."""
    return any(check.status == PROBLEM for check in checks)
