"""The doctor's measurement, with plain transformers, on heads whose stride is known exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.chain.scorers import markov
from tests.support.chain.target import HIDDEN, VOCAB, make_chain, save_chain
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.tools.doctor.check import OK, PROBLEM, WARNING, Check
from vllm_lmtp.tools.doctor.heads import Measurement, _stride_check, check_heads
from vllm_lmtp.tools.fit import backbone, fitness
from vllm_lmtp.tools.fit.agreement import HeadAgreement


@pytest.fixture(autouse=True)
def _short_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for heads that are exact, and four times faster."""
    monkeypatch.setattr(backbone, "SAMPLE_TOKENS", 32)


def _check(heads: Path, target: Path | None = None) -> tuple[dict[str, Check], Measurement | None]:
    checks, measurement = check_heads(str(heads), None if target is None else str(target), None)
    return {check.name: check for check in checks}, measurement


def _change_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config = {k: v for k, v in (config | values).items() if v is not None}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("n_heads", "stride"), [(3, 2), (2, 3), (2, 1)])
def test_exact_heads_show_their_stride(n_heads: int, stride: int, tmp_path: Path) -> None:
    folder = save_chain(make_chain(n_heads, stride, wrong=0), tmp_path / "chain")
    checks, measurement = _check(folder)
    assert {check.status for check in checks.values()} == {OK}
    assert measurement is not None
    assert measurement.finding.stride == stride
    assert measurement.lm_head.peak == 1
    for head in measurement.heads:
        # The passages are sampled, so a token in a hundred is not the chain's own.
        assert head.rates[stride * (head.head + 1)] > 0.8
        assert sum(head.rates) < 1.1


def test_a_misstated_stride_is_contradicted(tmp_path: Path) -> None:
    folder = save_chain(make_chain(3, 2, wrong=0), tmp_path / "chain")
    _change_config(folder, skip_token=3)
    checks, measurement = _check(folder)
    assert measurement is not None
    assert (measurement.stated_stride, measurement.finding.stride) == (3, 2)
    assert checks["stride"].status == WARNING
    assert "states 3" in checks["stride"].detail
    assert '"lmtp_stride": 2' in checks["stride"].remedy


def test_a_missing_stride_is_a_problem_and_is_measured(tmp_path: Path) -> None:
    folder = save_chain(make_chain(2, 2, wrong=0), tmp_path / "chain")
    config = json.loads((folder / "config.json").read_text())
    del config["skip_token"]
    (folder / "config.json").write_text(json.dumps(config))
    checks, measurement = check_heads(str(folder), None, None)
    assert [c.status for c in checks if c.name == "heads"] == [PROBLEM, OK]
    assert measurement is not None
    assert measurement.finding.stride == 2


def test_heads_only_with_their_target(tmp_path: Path) -> None:
    chain = make_chain(2, 2, wrong=0)
    heads = save_chain(chain, tmp_path / "heads", "heads")
    checks, measurement = _check(heads)
    assert measurement is None
    assert checks["stride"].status == WARNING
    assert "--target" in checks["stride"].remedy
    checks, measurement = _check(heads, save_chain(chain, tmp_path / "plain", "plain"))
    assert checks["stride"].status == OK
    assert measurement is not None


def test_heads_of_another_model_show_nothing(tmp_path: Path) -> None:
    heads = save_chain(make_chain(2, 2, wrong=0, seed=1), tmp_path / "heads", "heads")
    checks, measurement = _check(
        heads, save_chain(make_chain(2, 2, seed=2), tmp_path / "plain", "plain")
    )
    assert measurement is not None
    assert measurement.finding.stride is None
    assert checks["stride"].status == WARNING


@pytest.mark.parametrize(
    ("knows", "trained", "stated", "status"),
    [
        (True, "heads", 2, OK),
        (True, "heads", None, WARNING),  # there is nothing to take instead
        (True, "train: term", 2, WARNING),  # the heads learnt to say it alone
        (False, "heads", 2, WARNING),  # they do not follow this text at all
    ],
)
def test_heads_that_learnt_with_their_term_need_not_show_a_stride(
    knows: bool,
    trained: str,
    stated: int | None,
    status: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chain = make_chain(2, 2, wrong=0)
    folder = save_chain(chain, tmp_path / "chain")
    markov(chain).add_to(folder)
    scorer = json.loads((folder / "config.json").read_text())["scorer"]
    _change_config(folder, scorer=scorer | {"trained_with": trained})
    near = 0.10 if knows else 0.06
    rates = (near, near, near, *[0.05] * 9)
    heads = tuple(HeadAgreement(head, rates, 1000) for head in range(2))
    monkeypatch.setattr(fitness, "measure", lambda *_: heads)
    found = fitness.measure_on_text(read_checkpoint(folder), stated, str(folder), None)
    check = _stride_check(found)
    assert check.status == status
    assert ("together with their term" in check.detail) == (knows and trained == "heads")


def test_a_target_of_another_size_is_a_problem(tmp_path: Path) -> None:
    heads = save_chain(make_chain(2, 2), tmp_path / "heads", "heads")
    target = save_chain(make_chain(2, 2), tmp_path / "plain", "plain")
    _change_config(target, hidden_size=2 * HIDDEN, vocab_size=VOCAB + 1)
    checks, measurement = check_heads(str(heads), str(target), None)
    assert measurement is None
    assert [(c.name, c.status) for c in checks[-2:]] == [("target", PROBLEM)] * 2


@pytest.mark.parametrize("heads", ["nothing", "empty"])
def test_unreadable_heads_are_a_problem(heads: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    checks, measurement = _check(tmp_path / heads)
    assert measurement is None
    assert checks["heads"].status == PROBLEM
    assert checks["heads"].remedy


def test_a_text_needs_a_tokenizer(tmp_path: Path) -> None:
    folder = save_chain(make_chain(2, 2), tmp_path / "chain")
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time")
    checks, measurement = check_heads(str(folder), None, text)
    assert measurement is None
    assert checks[-1].status == PROBLEM
    assert "tokenizer" in checks[-1].detail
