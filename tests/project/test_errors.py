"""How refusals read and travel."""

from __future__ import annotations

import copy
import pickle

import pytest

from vllm_lmtp.errors import LMTPError, Refusal, raise_refusals, refuse

ONE = Refusal("config.json", "n_head", "0", "an integer from 1 to 64", "set it")
TWO = Refusal("a.safetensors", "heads.foo", "a stranger", "heads.heads.0", "remove it")


def test_one_refusal_reads_as_one_line() -> None:
    assert str(LMTPError([ONE])) == (
        "L-MTP: config.json: n_head: found 0; expected an integer from 1 to 64. Remedy: set it"
    )


def test_several_refusals_are_numbered() -> None:
    assert str(LMTPError([ONE, TWO])) == f"L-MTP: 2 reasons:\n  1. {ONE}\n  2. {TWO}"


def test_nothing_is_raised_for_no_refusals() -> None:
    raise_refusals([])


def test_all_refusals_are_raised_together() -> None:
    with pytest.raises(LMTPError) as caught:
        raise_refusals([ONE, TWO])
    assert caught.value.refusals == (ONE, TWO)


def test_single_refusal_formats_what_was_found() -> None:
    error = refuse("w", "f", found=3, expected="e", remedy="r")
    assert error.refusals == (Refusal("w", "f", "3", "e", "r"),)


def test_it_is_a_value_error_as_vllm_expects_of_bad_settings() -> None:
    assert isinstance(LMTPError([ONE]), ValueError)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("refusals", [(ONE,), (ONE, TWO)])
def test_errors_survive_pickling(refusals: tuple[Refusal, ...], protocol: int) -> None:
    error = LMTPError(refusals)
    returned = pickle.loads(pickle.dumps(error, protocol))
    assert type(returned) is LMTPError
    assert returned.refusals == refusals
    assert str(returned) == str(error)


def test_errors_survive_copying() -> None:
    assert copy.deepcopy(LMTPError([ONE, TWO])).refusals == (ONE, TWO)
