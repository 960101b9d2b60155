from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.chain.target import HIDDEN, VOCAB, draft_vocabulary, make_chain, save_chain
from vllm_lmtp.cli import main

HEAD_PARAMETERS = HIDDEN * HIDDEN + HIDDEN + VOCAB * HIDDEN


def _inspect(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, object]:
    assert main(["inspect", *map(str, words), "--json"]) == 0
    value: dict[str, object] = json.loads(capsys.readouterr().out)
    return value


def test_heads_only_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_chain(make_chain(3, 2), tmp_path / "heads", "heads")
    facts = _inspect(capsys, folder)
    size = (folder / "model.safetensors").stat().st_size
    assert facts == {
        "path": str(folder),
        "layout": "heads only",
        "stage1": False,
        "model_type": "qwen2",
        "n_heads": 3,
        "num_layers": 1,
        "stride": 2,
        "stride_from": "config.json (skip_token)",
        "skip_token": 2,
        "max_drafts": 6,
        "hidden_size": HIDDEN,
        "vocab_size": VOCAB,
        "draft_vocab_size": None,
        "int8_outputs": [],
        "scorer": None,
        "dtypes": ["F32"],
        "heads": [{"head": i, "offset": 1 + 2 * (i + 1)} for i in range(3)],
        "drafts": [
            {"place": p, "offset": p + 2, "head": p // 2, "lag": 1 - p % 2} for p in range(6)
        ],
        "parameters": {"head": HEAD_PARAMETERS, "heads": 3 * HEAD_PARAMETERS, "backbone": None},
        "bytes_bf16": {
            "head": 2 * HEAD_PARAMETERS,
            "heads": 6 * HEAD_PARAMETERS,
            "backbone": None,
        },
        "heads_to_backbone": None,
        "files": [{"name": "model.safetensors", "bytes": size, "tensors": 9}],
    }


def test_stage_1_folder_is_compared_with_its_backbone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_chain(make_chain(2, 3), tmp_path / "stage1")
    facts = _inspect(capsys, folder)
    assert facts["layout"] == "stage 1 (backbone and heads)"
    square = HIDDEN * HIDDEN
    layer = 7 * square + 3 * HIDDEN + 2 * HIDDEN
    backbone = 2 * VOCAB * HIDDEN + 2 * layer + HIDDEN
    assert facts["parameters"]["backbone"] == backbone  # type: ignore[index]
    assert facts["heads_to_backbone"] == 2 * HEAD_PARAMETERS / backbone

    assert main(["inspect", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "3, from config.json (skip_token)" in text
    assert "the heads are" in text


def test_tied_embeddings_count_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_chain(make_chain(1, 1), tmp_path / "tied")
    untied = _inspect(capsys, folder)["parameters"]["backbone"]  # type: ignore[index]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    tied = _inspect(capsys, folder)["parameters"]["backbone"]  # type: ignore[index]
    assert untied - tied == VOCAB * HIDDEN


def test_reduced_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = make_chain(2, 2)
    folder = save_chain(chain, tmp_path / "r", "heads", vocabulary=draft_vocabulary(300), int8=True)
    facts = _inspect(capsys, folder)
    assert (facts["vocab_size"], facts["draft_vocab_size"]) == (VOCAB, 300)
    assert facts["int8_outputs"] == [0, 1]
    assert facts["dtypes"] == ["F32", "I64", "I8"]
    one = HIDDEN * HIDDEN + HIDDEN + 300 * HIDDEN
    assert facts["parameters"] == {"head": one, "heads": 2 * one, "backbone": None}
    assert main(["inspect", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "of which the heads draft 300 tokens" in text
    assert "int8 with one scale a row (heads: all)" in text


def test_stride_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_chain(make_chain(2, 2), tmp_path / "heads", "heads")
    facts = _inspect(capsys, folder, "--stride", "3")
    assert (facts["stride"], facts["stride_from"], facts["skip_token"]) == (3, "--stride", 2)
    assert facts["heads"] == [{"head": 0, "offset": 4}, {"head": 1, "offset": 7}]


def test_a_plain_model_has_no_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_chain(make_chain(1, 1), tmp_path / "plain", "plain")
    assert main(["inspect", str(folder)]) == 2
    assert "heads.*" in capsys.readouterr().err
