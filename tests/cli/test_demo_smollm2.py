"""The demo on a chat model: a tiny stand-in where the prepared one lies, and heads of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.command import ROOT, vllm_lmtp
from tests.support.gguf_file import HIDDEN, write_gguf
from tests.support.random_models import config_of, write_tensors
from vllm_lmtp.checkpoints import smollm2
from vllm_lmtp.checkpoints.gguf import write_model
from vllm_lmtp.checkpoints.questions import QUESTIONS
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.tools.folders.convert import head_fields

pytestmark = pytest.mark.engine
PROMPTS = 3


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An XDG cache in which the target was prepared already."""
    folder = tmp_path_factory.mktemp("xdg")
    target = folder / "vllm-lmtp" / smollm2.MODEL.folder
    target.mkdir(parents=True)
    write_gguf(folder / "stand-in.gguf")
    write_model(folder / "stand-in.gguf", target, smollm2.MODEL.eos_token)
    note = {"steps": [{"wheel_sha256": smollm2.MODEL.hashes}]}
    (target / "lmtp_provenance.json").write_text(json.dumps(note))
    return folder


@pytest.fixture(scope="module")
def heads(cache: Path) -> Path:
    """Two random heads of stride 2."""
    folder = cache / "heads"
    folder.mkdir()
    vocab = config_of(cache / "vllm-lmtp" / smollm2.MODEL.folder)["vocab_size"]
    generator = torch.Generator().manual_seed(2)
    tensors = {}
    for i in range(2):
        block = f"heads.heads.{i}.resblock.0.l_proj"
        tensors[f"{block}.weight"] = torch.zeros(HIDDEN, HIDDEN)
        tensors[f"{block}.bias"] = torch.zeros(HIDDEN)
        output = torch.randn(vocab, HIDDEN, generator=generator)
        tensors[f"heads.heads.{i}.lm_head.weight"] = output
    write_tensors(folder, tensors)
    config = head_fields(LeapSchedule(2, 2), 1, HIDDEN, vocab)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_it_asks_the_questions_as_a_users_turns(cache: Path, heads: Path) -> None:
    done = vllm_lmtp(
        *("demo", "--model", "smollm2", "--heads", heads, "--prompts", str(PROMPTS)),
        *("--max-tokens", "12", "--threads", "1", "--json"),
        XDG_CACHE_HOME=str(cache),
    )
    assert done.code == 0, done.stderr
    result = done.value
    assert [asked["prompt"] for asked in result["prompts"]] == list(QUESTIONS[:PROMPTS])
    assert result["identical"]
    assert result["must_be_identical"]
    assert (result["n_heads"], result["stride"]) == (2, 2)
    assert len(result["acceptance"]["by_position"]) == 4
    assert result["acceptance"]["drafts"] > 0
    assert smollm2.MODEL.folder in result["model"]


@pytest.mark.parametrize("end", ["end of input", "Ctrl-C"])
def test_a_chat_in_a_terminal(cache: Path, heads: Path, end: str) -> None:
    command = [sys.executable, "-m", "vllm_lmtp.cli", "demo", "--chat", "--model", "smollm2"]
    process = subprocess.Popen(
        [*command, "--heads", str(heads), "--max-tokens", "8", "--threads", "1"],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("Hello there\n")
    process.stdin.flush()
    said = ""
    while "acceptance length" not in said and (line := process.stdout.readline()):
        said += line
    if end == "Ctrl-C":
        process.send_signal(2)
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "plain> " in said
    assert "L-MTP> " in said
    assert said.count("tokens/s") == 2
    assert "plain>" not in rest
