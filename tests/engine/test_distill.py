"""From prompts to served heads: answers with their rows, heads trained on them, counters as told.

The runner that answers is chosen by the environment, so these run the program itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vllm_lmtp
from tests.engine.client import ROOT, EngineHost, counted, environment
from tests.support.chain.target import Counters
from tests.support.transformers_oracle import Oracle
from vllm_lmtp.training.model.layout import load_backbone

TINY = Path(vllm_lmtp.__file__).parent / "checkpoints" / "tiny"
OPENINGS = ["Once upon a time", "Tom and Lily", "The sun", "One day, a big dog", "Mia had a red"]
KINDS = {"v1": (1, False), "v2": (2, False), "v2-async": (2, True)}
DISTILL = """
run: distill
output: {output}
seed: 1
chat: false
prompts:
  - name: openings
    dataset: nobody/openings
    template: "{{opening}}"
    times: 4
answers:
  temperatures: [0.0, 0.8]
  shards: 2
  texts_per_shard: 10
  max_tokens: 60
  seed: 5
  dtype: float32
  batch: 6
  kv_cache_gib: 1
  keep_rows: true
  eager: true
"""
HEADS = """
run: heads
model_name: tests/heads
backbone: {backbone}
dataset: {dataset}
output: {output}
seed: 1
threads: 1
held_out: 4
int8: true
heads: {{n_head: 2, skip_token: 2}}
draft_vocab: {{size: 320}}
optim: {{lr: 0.01, warmup: 0.1, steps: 30, batch_rows: 64, save_every: 15}}
"""


@pytest.mark.parametrize("kind", ["v1", pytest.param("v2", marks=pytest.mark.slow), "v2-async"])
def test_kept_rows_are_what_the_lm_head_reads(kind: str, tmp_path: Path) -> None:
    prompts = [json.dumps({"prompt": text, "source": "here\u2028"}) for text in OPENINGS]
    (tmp_path / "prompts.jsonl").write_text("\n".join(prompts))
    settings = {
        "temperatures": [0.7],
        "shards": 2,
        "texts_per_shard": 7,
        "max_tokens": 20,
        "seed": 3,
        "prompts": str(tmp_path / "prompts.jsonl"),
        "dtype": "float32",
        "batch": 3,
        "kv_cache_gib": 1,
        "keep_rows": True,
        "eager": True,
    }
    (tmp_path / "settings.yaml").write_text(json.dumps(settings))
    program = "vllm_lmtp.training.distillation.sample"
    _run([program, TINY, tmp_path, tmp_path / "settings.yaml", 0], *KINDS[kind])
    backbone = load_backbone(TINY)
    for shard in sorted(tmp_path.glob("shard-*.jsonl")):
        kept = load_file(shard.with_suffix(".rows.safetensors"))
        bounds = kept["bounds"].tolist()
        for number, line in enumerate(shard.read_text().strip().split("\n")):
            record = json.loads(line)
            ids = torch.tensor([record["tokens"]])
            with torch.no_grad():
                states = backbone.model(ids).last_hidden_state[0, record["prompt_tokens"] - 1 :]
            rows = kept["rows"][bounds[number] : bounds[number + 1]]
            # A row for every sampled token; the last one's own row was not computed.
            assert len(rows) == len(states) - (0 if record["ended"] else 1)
            torch.testing.assert_close(rows, states[: len(rows)], atol=1e-4, rtol=0)


def test_from_prompts_to_served_heads(host: EngineHost, tmp_path: Path) -> None:
    if host.asynchronous:
        pytest.skip("distillation itself is the same; runner 2 is tested without it")
    data = tmp_path / "data"
    data.mkdir()
    lines = [json.dumps({"opening": text}) for text in OPENINGS]
    (data / "openings.jsonl").write_text("\n".join(lines))
    run = tmp_path / "distilled"
    config = tmp_path / "distill.yaml"
    config.write_text(DISTILL.format(output=run))
    command = ["vllm_lmtp.cli", "distill", config, "--model", TINY, "--data", data, "--json"]
    report = json.loads(_run(command, host.runner, False))
    assert report["answers"]["read"] == 20
    before = (run / "answers" / "shard-001.jsonl").read_text()
    # What an interruption leaves: one shard of two. The second run makes the same texts again.
    (run / "answers" / "shard-001.jsonl").unlink()
    _run(command, host.runner, False)
    assert (run / "answers" / "shard-001.jsonl").read_text() == before

    training = tmp_path / "heads.yaml"
    training.write_text(
        HEADS.format(backbone=TINY, dataset=run / "dataset", output=tmp_path / "trained")
    )
    _run(["vllm_lmtp.cli", "train", training, "--json"], host.runner, False)
    heads = tmp_path / "trained" / "model"
    log = json.loads((heads / "training_log.json").read_text())
    assert log["draft_vocab"]["size"] == 320
    losses = [entry["loss"] for entry in log["history"] if "loss" in entry]
    assert losses[-1] < losses[0]

    host.start(TINY, speculative_config={"method": "lmtp", "model": str(heads)})
    oracle = Oracle(heads, TINY)
    prompts = [oracle_prompt(text) for text in OPENINGS[:3]]
    reply = host.generate(prompts, {"temperature": 0, "max_tokens": 40})
    expected = Counters.zero(4)
    for prompt, (tokens,) in zip(prompts, reply["tokens"], strict=True):
        output, counters = oracle.expect(prompt, 40)
        assert tokens == output
        expected += counters
    assert counted(reply["counters"], 4, 2) == expected
    assert sum(expected.accepted_per_pos) > 0


def oracle_prompt(text: str) -> list[int]:
    """Token ids of an opening."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY)(text)["input_ids"]


def _run(command: list[object], runner: int, asynchronous: bool) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT,
        env=environment(runner, asynchronous, False),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
