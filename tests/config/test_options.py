"""Values that an option cannot have are refused by name, before anything else is looked at."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from vllm_lmtp.config.spec_config import LMTPSpeculativeConfig, as_lmtp_error
from vllm_lmtp.errors import Refusal

BOUNDS = ("lmtp_copy_min_match", "lmtp_copy_max_match")


def refusals(**options: Any) -> dict[str, Refusal]:
    """By field; each must be complete."""
    with pytest.raises(ValidationError) as caught:
        LMTPSpeculativeConfig(**options)
    error = as_lmtp_error(caught.value)
    for refusal in error.refusals:
        for part in (refusal.where, refusal.field, refusal.found, refusal.expected, refusal.remedy):
            assert part
            assert part in str(error)
    found = {refusal.field: refusal for refusal in error.refusals}
    assert len(found) == len(error.refusals)
    return found


@pytest.mark.parametrize("value", ["yes", "ON", "", True, False, 1, None, ["on"]])
def test_copying_is_on_or_off(value: Any) -> None:
    (refusal,) = refusals(lmtp_copy=value).values()
    assert (refusal.where, refusal.field) == ("--speculative-config", "lmtp_copy")
    assert refusal.found == repr(value)
    assert "'on' or 'off'" in refusal.expected


@pytest.mark.parametrize("field", BOUNDS)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "greater than or equal to 1"),
        (-1, "greater than or equal to 1"),
        (65, "less than or equal to 64"),
        (10**9, "less than or equal to 64"),
        (2.5, "integer"),
        (float("nan"), "number"),
        ("many", "integer"),
        (None, "integer"),
        ([3], "integer"),
    ],
)
def test_matches_are_of_1_to_64_tokens(field: str, value: Any, expected: str) -> None:
    (refusal,) = refusals(**{field: value}).values()
    assert (refusal.where, refusal.field) == ("--speculative-config", field)
    assert refusal.found == repr(value)
    assert expected in refusal.expected


def test_all_bad_values_are_refused_at_once() -> None:
    asked = {"lmtp_copy": "maybe", **dict.fromkeys(BOUNDS, 0), "lmtp_stride": 0}
    assert set(refusals(**asked)) == set(asked)


@pytest.mark.parametrize(
    "good",
    [
        {"lmtp_copy": "on"},
        {"lmtp_copy": "off"},
        *({field: value} for field in BOUNDS for value in (1, 64)),
    ],
)
def test_values_that_it_can_have_are_not(good: dict[str, Any]) -> None:
    assert set(refusals(**good, lmtp_stride=0)) == {"lmtp_stride"}


def test_a_misspelt_option_is_told_what_there_is() -> None:
    (refusal,) = refusals(lmtp_copies="on").values()
    assert (refusal.field, refusal.found) == ("lmtp_copies", "an unknown key")
    assert {"lmtp_copy", *BOUNDS} <= set(refusal.expected.replace(",", " ").split())


@pytest.mark.parametrize("value", ["AUTO", "none", 6, True, ["auto"]])
def test_a_draft_length_is_found_or_fixed(value: Any) -> None:
    (refusal,) = refusals(lmtp_draft_length=value).values()
    assert (refusal.field, refusal.found) == ("lmtp_draft_length", repr(value))
    assert "'auto' or 'fixed'" in refusal.expected
