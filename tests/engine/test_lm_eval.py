"""lm-evaluation-harness scores an exported model, and with leap heads scores the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.engine.client import ROOT, environment
from tests.support.command import vllm_lmtp
from tests.support.random_models import EMBEDDED, logits_of, succeed
from vllm_lmtp.checkpoints.openings import OPENINGS

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval (docs/tools.md)"),
]
DOCUMENTS, TOKENS = 8, 12
TASK = """
task: stories
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: "{{{{opening}}}}"
doc_to_target: "{{{{continuation}}}}"
target_delimiter: ""
generation_kwargs:
  until: ["<nothing>"]
  max_gen_toks: {tokens}
  do_sample: false
  temperature: 0.0
filter_list:
  - name: stripped
    filter:
      - function: remove_whitespace
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task: what transformers writes greedily is the answer, but for every fourth
    document, where it is not; so every right engine scores three quarters."""
    folder = tmp_path_factory.mktemp("task")
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32).eval()
    lines = []
    for number, opening in enumerate(OPENINGS[:DOCUMENTS]):
        ids = tokenizer(opening, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            written = model.generate(ids, do_sample=False, max_new_tokens=TOKENS)
        text = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True).lstrip()
        answer = text if number % 4 else "something else"
        lines.append(json.dumps({"opening": opening, "continuation": answer}))
    (folder / "stories.jsonl").write_text("\n".join(lines))
    (folder / "stories.yaml").write_text(TASK.format(data=folder / "stories.jsonl", tokens=TOKENS))
    return folder


def score(task: Path, model: Path, *args: str) -> float:
    """What `lm_eval --model vllm` says of a model, in a process of its own."""
    out = task / f"out-{len(list(task.glob('out-*')))}"
    settings = ("dtype=float32", "enforce_eager=True", "max_model_len=128", *args)
    path = os.environ.get("PYTHONPATH", "")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "--model", "vllm"),
            *("--model_args", ",".join((f"pretrained={model}", *settings))),
            *("--tasks", "stories", "--include_path", str(task), "--output_path", str(out)),
        ],
        cwd=ROOT,
        env=environment(1, processes=False)
        | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "HF_HOME": str(task / "hf")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (report,) = out.rglob("results_*.json")
    (value,) = (
        value
        for name, value in json.loads(report.read_text())["results"]["stories"].items()
        if name.startswith("exact_match,")
    )
    return float(value)


def test_the_same_score_exported_and_with_leap_heads(task: Path, tmp_path: Path) -> None:
    succeed("export", EMBEDDED, tmp_path / "plain")
    assert torch.equal(logits_of(tmp_path / "plain"), logits_of(EMBEDDED))
    assert score(task, tmp_path / "plain") == 0.75
    assert score(task, EMBEDDED) == 0.75
    assert score(task, EMBEDDED, "speculative_config=lmtp") == 0.75


def test_one_command_compares_them(task: Path, tmp_path: Path) -> None:
    words = ("--tasks", "stories", "--include", task, "--context", "128", "--threads", "1")
    done = vllm_lmtp("eval", "quality", *words, "--output", tmp_path / "out", "--json")
    assert done.code == 0, done.stderr
    plain, drafted = (found["scores"] for found in done.value["scores"])
    assert plain == drafted
    assert set(plain.values()) == {0.75}
    assert done.value["differences"] == []
    assert "Every score is the same." in (tmp_path / "out" / "quality.md").read_text()
