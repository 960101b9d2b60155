"""A worker that dies in the middle of a generation."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.chain import Chain
from tests.engine.client import ROOT, EngineHost, environment
from tests.engine.test_chain import check, prompts_of

SCRIPT = """
import sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    llm = LLM(sys.argv[1], speculative_config="lmtp", tensor_parallel_size=2, dtype="float32",
              enforce_eager=True, max_model_len=512, max_num_seqs=4, skip_tokenizer_init=True)
    prompts = [{"prompt_token_ids": [token]} for token in range(500)] * 4
    print("<<generating>>", flush=True)
    llm.generate(prompts, SamplingParams(max_tokens=400, ignore_eos=True, detokenize=False))
"""


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "Worker" in " ".join(child.cmdline())]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_ends_the_run_and_a_restart_serves(
    rank: int, chain: Chain, chain_folder: Path, tmp_path: Path
) -> None:
    """The run ends within a minute with an exit code that is not zero; nothing is left behind."""
    script = tmp_path / "generate.py"
    script.write_text(SCRIPT)
    with (tmp_path / "errors.log").open("w") as errors:
        run = subprocess.Popen(
            [sys.executable, str(script), str(chain_folder)],
            cwd=ROOT,
            env=environment(1),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert run.stdout is not None
            assert any("<<generating>>" in line for line in run.stdout)
            time.sleep(3)
            assert run.poll() is None
            family = psutil.Process(run.pid).children(recursive=True)
            workers = sorted(workers_of(run), key=lambda worker: " ".join(worker.cmdline()))
            assert len(workers) == 2
            workers[rank].kill()
            assert run.wait(timeout=60) != 0
            _, alive = psutil.wait_procs(family, timeout=30)
            assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
        finally:
            if run.poll() is None:
                for child in psutil.Process(run.pid).children(recursive=True):
                    child.kill()
            run.kill()
            run.wait()

    host = EngineHost(1, False, tmp_path / "host.log", processes=True)
    try:
        host.start(chain_folder, speculative_config="lmtp", tensor_parallel_size=2)
        check(host, chain, prompts_of(chain, [5, 40]), 20, 6, 512)
    finally:
        host.close()
