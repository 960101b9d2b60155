"""configs/ray/batch.py over two nodes: Ray Data's answers are those of plain decoding."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from tests.distributed.checkpoint import Checkpoint
from tests.distributed.cluster import Cluster
from tests.engine.client import ROOT, environment
from tests.engine.test_real import OPENINGS

ENGINE = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 4, "max_model_len": 512}


def test_batch_and_its_metrics_under_rays_names(checkpoint: Checkpoint, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"{text}\n" for text in OPENINGS))
    cluster = Cluster(2, 1, tmp_path)
    answers_file, errors = tmp_path / "answers.jsonl", tmp_path / "batch.log"
    try:
        command = [ROOT / "configs" / "ray" / "batch.py", checkpoint.folder, prompts]
        command += ["2", json.dumps(ENGINE)]
        # Files take what is written while nobody reads, which a pipe does not.
        with answers_file.open("w") as out, errors.open("w") as log:
            batch = subprocess.Popen(
                [sys.executable, *map(str, command)],
                cwd=ROOT,
                env=environment(1) | cluster.variables,
                stdout=out,
                stderr=log,
            )
        try:
            seen = watch(batch, cluster)
            assert batch.wait() == 0, errors.read_text()[-3000:]
        finally:
            batch.kill()
            batch.wait()
    finally:
        cluster.close()
    lines = answers_file.read_text().splitlines()
    answers = {row["prompt"]: row["text"] for row in map(json.loads, lines)}
    assert answers.keys() == set(OPENINGS)
    for text, written in zip(OPENINGS, checkpoint.texts, strict=True):
        assert answers[text].strip().startswith(written)  # which is of 80 tokens, not 256
    accepted = seen["ray_vllm_spec_decode_num_accepted_tokens_total"]
    assert seen["ray_vllm_lmtp_num_accepted_tokens_total"] == accepted > 0
    drafted = seen["ray_vllm_spec_decode_num_draft_tokens_total"]
    assert seen["ray_vllm_lmtp_num_draft_tokens_total"] == drafted
    assert "ray_vllm_lmtp_draft_seconds_count" in seen


def watch(batch: subprocess.Popen[bytes], cluster: Cluster) -> dict[str, float]:
    """Sums over the nodes of L-MTP's and speculation's metrics, as last scraped."""
    seen: dict[str, float] = {}
    while batch.poll() is None:
        now: dict[str, float] = {}
        for node in cluster.nodes:
            with suppress(OSError), urllib.request.urlopen(node.metrics, timeout=5) as reply:
                for line in reply.read().decode().splitlines():
                    if re.match(r"ray_vllm_(lmtp|spec_decode)_", line):
                        name, value = re.split(r"[{ ]", line)[0], float(line.rsplit(" ", 1)[1])
                        now[name] = now.get(name, 0) + value
        seen = now or seen
        time.sleep(0.5)
    return seen
