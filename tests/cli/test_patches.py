from __future__ import annotations

import json

import pytest

from vllm_lmtp.cli import main
from vllm_lmtp.patches import PATCHES
from vllm_lmtp.patches.page import render


def test_every_patch_is_listed_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["patches", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [patch["name"] for patch in listed] == [patch.name for patch in PATCHES]
    assert main(["patches"]) == 0
    text = capsys.readouterr().out
    assert main(["patches", "--markdown"]) == 0
    page = capsys.readouterr().out
    assert page == render()
    for patch in PATCHES:
        assert f"## {patch.name}\n" in page
        assert patch.why in page
        for binding in patch.bindings:
            assert str(binding) in page
            assert str(binding) in text


def test_a_binding_that_vllm_lost_is_a_problem() -> None:
    from vllm_lmtp.patches.record import Binding
    from vllm_lmtp.tools.doctor import bindings

    gone = Binding("json", "JSONDecoder.gone", lambda original: original)
    check = bindings._check("patch x", gone, 1)
    assert (check.status, check.detail) == (
        "problem",
        "json:JSONDecoder.gone: no such attribute in this vLLM",
    )
    there = Binding("json", "JSONDecoder", lambda original: original)
    assert "not applied" in bindings._check("patch x", there, 1).detail


@pytest.mark.parametrize(("runner", "status"), [(1, "ok"), (2, "problem")])
def test_the_other_runner_is_not_needed(runner: int, status: str) -> None:
    from vllm_lmtp.patches.record import Binding
    from vllm_lmtp.tools.doctor import bindings

    absent = Binding("vllm.v1.worker.gpu.no_such_module", "x", lambda original: original)
    assert bindings._check("patch x", absent, runner).status == status
