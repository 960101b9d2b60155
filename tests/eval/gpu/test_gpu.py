"""The GPU kit, rehearsed without one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("matplotlib")

from vllm_lmtp.checkpoints.subject import Subject
from vllm_lmtp.eval.gpu import all as gpu_all
from vllm_lmtp.eval.gpu import draft, engine, smoke
from vllm_lmtp.eval.gpu.dimensions import MODELS
from vllm_lmtp.eval.gpu.dummy import save_heads, save_target
from vllm_lmtp.eval.gpu.jobs import cause, run_job
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.formats.scorer_tensors import TERMS
from vllm_lmtp.worker.head_dtype import FP8, held_matrix


def test_the_draft_alone(tmp_path: Path) -> None:
    """Every dtype, scorer and batch size gives one run, whose tokens float64 confirms."""
    words = ["--models", "tiny", "--batches", "1", "3", "--scorers", "none", *TERMS]
    code = draft.main([*words, "--repeats", "2", "--device", "cpu", "--out", str(tmp_path)])
    assert code == 0
    result = json.loads((tmp_path / "draft.json").read_text())
    assert result["kind"] == "draft"
    assert result["provenance"]["command"].startswith("python -m vllm_lmtp.eval.gpu.draft --models")
    assert (tmp_path / "draft.png").stat().st_size > 1000
    runs = result["runs"]
    assert {(r["dtype"], r["scorer"], r["batch"]) for r in runs} == {
        (d, s, b) for d in ("bfloat16", "int8", "fp8") for s in ("none", *TERMS) for b in (1, 3)
    }
    size = MODELS["tiny"]
    for run in runs:
        assert run["of_floor"] == pytest.approx(run["seconds"] * result["bandwidth"] / run["bytes"])
        assert run["agreed"] > 0.9
        assert run["worst_loss"] < 0.02
        blocks = 2 * size.n_heads * size.hidden * (size.hidden + 1)
        matrices = 2 * size.n_heads * size.vocab * size.hidden
        term = 6 * 2 * size.vocab * draft.RANK if run["scorer"] != "none" else 0
        assert run["bytes"] == blocks + matrices + term


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("", "loads"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_a_kernel_that_ends_its_process_is_a_fact(
    source: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_kernel.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert smoke.loads("a_kernel") == found


def test_heads_are_made_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`smollm2` is a name of ours, which `vllm-lmtp heads` does not know."""
    monkeypatch.setattr(
        gpu_all, "subject_of", lambda model, heads: Subject(f"/folder/of/{model}", heads)
    )
    args = argparse.Namespace(rehearse=False, model="smollm2", out=tmp_path, prompts=None)
    (stage,) = [stage for stage in gpu_all.plan(args) if stage.name == gpu_all.HEADS]
    (command,) = stage.commands(tmp_path, 600.0)
    assert command[-4] == "/folder/of/smollm2"


def planned(*words: str) -> list[dict[str, Any]]:
    parser = engine.build_parser()
    return engine.plan(parser.parse_args([*words, "--out", "results"]))


def test_engines_of_a_made_up_model() -> None:
    found = planned("--dummy", "llama-3.1-8b", "--acceptance-lengths", "1", "7")
    assert [e["method"] for e in found] == ["plain", *["lmtp"] * 6, *["ngram"] * 2]
    assert "speculative_config" not in found[0]["args"]
    for made in found:
        assert made["args"]["load_format"] == "dummy"
        assert made["args"]["max_num_seqs"] == 256
    for made in found[1:]:
        config = made["args"]["speculative_config"]
        assert config["synthetic_acceptance_length"] == made["acceptance_length"]
    assert {e.get("dtype") for e in found[1:7]} == {"bfloat16", "int8", "fp8"}


def test_engines_of_a_checkpoint() -> None:
    found = planned("--checkpoint", "folder", "--head-dtypes", "int8", "--engine", '{"seed": 3}')
    assert [e["method"] for e in found] == ["plain", "lmtp", "ngram"]
    fixed = {"method": "lmtp", "lmtp_draft_length": "fixed", "lmtp_head_dtype": "int8"}
    assert found[1]["args"]["speculative_config"] == fixed
    assert all(e["args"]["seed"] == 3 and e["args"]["model"] == "folder" for e in found)


def test_heads_beside_a_checkpoint() -> None:
    found = planned("--checkpoint", "target", "--heads", "heads", "--head-dtypes", "auto")
    assert found[1]["args"]["model"] == "target"
    assert found[1]["args"]["speculative_config"]["model"] == "heads"
    assert "speculative_config" not in found[0]["args"]


def test_drafts_that_the_target_judges() -> None:
    found = planned("--dummy", "tiny", "--real-acceptance")
    assert [e["method"] for e in found] == ["plain", *["lmtp"] * 3, "ngram"]
    for made in found[1:]:
        assert "rejection_sample_method" not in made["args"]["speculative_config"]


def test_synthetic_acceptance_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "accepts_synthetically", lambda: False)
    with pytest.raises(SystemExit) as stop:
        engine.main(["--dummy", "tiny", "--out", str(tmp_path / "x")])
    assert stop.value.code == 2
    assert "vLLM's CPU backend has no synthetic acceptance" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_this_machine_accepts_synthetically_only_with_triton() -> None:
    from vllm.platforms import current_platform
    from vllm.triton_utils import HAS_TRITON

    assert engine.accepts_synthetically() == (HAS_TRITON or not current_platform.is_cpu())


LOG = """\
(Main) WARNING [base.py:380] ValueError: Tokenizer not available
(Worker) ERROR [executor.py:1063] Traceback (most recent call last):
(Worker) ERROR [executor.py:1063]     raise NotReached(
(Worker) ERROR [executor.py:1063] AssertionError: Synthetic acceptance not supported
(Core) ERROR [core.py:1512] RuntimeError: Worker failed with error 'Synthetic ...
vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.
"""


def test_the_cause_is_the_first_that_is_no_consequence() -> None:
    assert cause(LOG) == "AssertionError: Synthetic acceptance not supported"
    assert cause(LOG.splitlines()[-1]) == (
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue."
    )
    assert cause("Exception: gone. See stack trace for root cause.\nx.y.OSError: full") == (
        "x.y.OSError: full"
    )
    assert cause("nothing was raised") is None


def test_a_job_that_fails_leaves_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_lmtp.eval.gpu.jobs.ENGINE", "json.tool")  # knows no --one
    found = run_job({"engine": {}}, tmp_path / "logs" / "0.log")
    assert found == {"error": "ended with 2", "log": "0.log"}
    assert "usage" in (tmp_path / "logs" / "0.log").read_text()


def test_a_dry_run_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert engine.main(["--dummy", "tiny", "--out", str(tmp_path / "x"), "--dry-run"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1 + 3 * 7 + 7
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("draft_vocab", [None, 96])
def test_made_up_heads_are_sound(tmp_path: Path, draft_vocab: int | None) -> None:
    size = MODELS["tiny"]
    assert (save_target(tmp_path / "target", "tiny", size) / "config.json").is_file()
    found = read_checkpoint(save_heads(tmp_path / "heads", size, draft_vocab))
    assert found.lm_head(0).dtype == "I8"
    assert found.output_rows == (draft_vocab or size.vocab)
    assert held_matrix(found, 2, torch.int8)[0].dtype == torch.int8
    assert held_matrix(found, 2, FP8)[0].dtype == FP8
