"""The test process's side of `host.py`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.engine.host import MARK
from tests.support.chain.target import Counters

ROOT = Path(__file__).parents[2]
INTERPRETER = ROOT / "tests" / "engine" / "interpreter"
GPU = torch.cuda.is_available()
"""Where there is one the engines run on it, V2 natively, and with CUDA graphs."""
GRAPHS = {
    # Graphs are what a GPU adds; compiling every tiny target would only take minutes.
    "compilation_config": {"mode": 0, "cudagraph_mode": "FULL"},
    # Several test processes share the memory, which vLLM would else take all of.
    "gpu_memory_utilization": 0.1,
    "kv_cache_memory_bytes": 2**30,
}


class EngineError(RuntimeError):
    """The engine refused or died; `kind` names the exception it raised."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class EngineHost:
    """A host process for one kind of runner.

    Args:
        runner: 1 or 2; without a GPU 2 runs under Triton's interpreter.
        asynchronous: asynchronous scheduling (runner 2 only).
        log: file that gets everything vLLM prints.
        processes: engine core and workers in processes of their own, as vLLM has it by default.
        path: a folder put on the host's PYTHONPATH.
        hub: a folder that stands for the cache of the Hugging Face hub.
        module: what runs in the process, `host.py` or what extends it.
        variables: added to the process's environment.
    """

    def __init__(
        self,
        runner: int,
        asynchronous: bool,
        log: Path,
        *,
        processes: bool = False,
        path: Path | None = None,
        hub: Path | None = None,
        module: str = "tests.engine.host",
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.runner, self.asynchronous, self.log = runner, asynchronous, log
        self.processes = processes
        self._log = log.open("w")
        env = environment(runner, asynchronous, processes)
        if path is not None:
            env["PYTHONPATH"] += f"{os.pathsep}{path}"
        if hub is not None:
            env["HF_HUB_CACHE"] = str(hub)
        env |= variables or {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            mark = line.find(MARK)
            if mark >= 0:
                reply = json.loads(line[mark + len(MARK) :])
                if "error" in reply:
                    raise EngineError(reply["error"], reply["message"])
                return reply
            self._log.write(line)
        self._log.flush()
        tail = self.log.read_text()[-3000:]
        raise EngineError("Died", f"exit code {self._process.wait()}; its log ends:\n{tail}")

    def start(self, model: str | Path, **args: Any) -> None:
        """Start an engine, and check that it is of the kind this host stands for."""
        defaults = {
            "dtype": "float32",
            "max_model_len": 512,
            "max_num_seqs": 8,
            "disable_log_stats": False,
            "enable_prefix_caching": False,
            "seed": 0,
        }
        defaults |= GRAPHS if GPU else {"enforce_eager": True}
        if self.asynchronous or GPU:
            # vLLM's default on GPUs; on a CPU it refuses it for methods it does not know.
            defaults["async_scheduling"] = self.asynchronous
        if not self.processes:
            defaults["distributed_executor_backend"] = "uni"
        if model_lacks_tokenizer(Path(model)):
            defaults["skip_tokenizer_init"] = True
        if (spec := args.get("speculative_config")) is not None:
            args["speculative_config"] = with_known_lengths(spec)
        reply = self.call("start", args={"model": str(model), **defaults, **args})
        assert reply == {"runner": self.runner, "async": self.asynchronous}

    def generate(self, prompts: list[Any], params: Any) -> dict[str, Any]:
        return self.call("generate", prompts=prompts, params=params)

    def close(self) -> None:
        with contextlib.suppress(EngineError, OSError):  # it is killed next
            self.call("stop")
        self._process.kill()
        self._process.wait()
        self._log.close()


def environment(runner: int, asynchronous: bool = False, processes: bool = True) -> dict[str, str]:
    """Environment under which vLLM takes this runner."""
    env = dict(os.environ)
    beside = env.get("PYTHONPATH", "")
    env |= {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # Engine and worker in one process start in 2-4 s rather than 20.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if processes else "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "INFO",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), beside))),
    }
    if GPU:
        env["VLLM_USE_V2_MODEL_RUNNER"] = str(runner - 1)
    elif runner == 2:
        env |= {
            "TRITON_INTERPRET": "1",
            "TORCHDYNAMO_DISABLE": "1",
            "PYTHONPATH": os.pathsep.join((str(INTERPRETER), env["PYTHONPATH"])),
            "LMTP_TEST_ASYNC": "1" if asynchronous else "0",
        }
    return env


def run_with_vllm(command: list[Any], timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command that uses vLLM, as a user would; its output is captured."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment(1),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def model_lacks_tokenizer(folder: Path) -> bool:
    return folder.is_dir() and not (folder / "tokenizer.json").exists()


def counted(counters: dict[str, float], places: int, stride: int) -> Counters:
    """vLLM's and our counters as the simulator writes them, checked against each other."""
    accepted = [
        int(counters.get(f"vllm:spec_decode_num_accepted_tokens_per_pos/{p}", 0))
        for p in range(places)
    ]
    by_source = [(p // stride, stride - 1 - p % stride) for p in range(places)]
    drafted = [int(counters.get(f"vllm:lmtp_num_draft_tokens/{h}/{g}", 0)) for h, g in by_source]
    ours = [int(counters.get(f"vllm:lmtp_num_accepted_tokens/{h}/{g}", 0)) for h, g in by_source]
    assert ours == accepted
    assert sum(drafted) == counters["vllm:spec_decode_num_draft_tokens"]
    assert sum(accepted) == counters["vllm:spec_decode_num_accepted_tokens"]
    copies = []
    for name, total in (("draft", sum(drafted)), ("accepted", sum(accepted))):
        whence = [
            int(counters.get(f"vllm:lmtp_num_{name}_tokens_by_source/{source}", 0))
            for source in ("head", "copy")
        ]
        assert sum(whence) == total
        copies.append(whence[1])
    return Counters(
        int(counters["vllm:spec_decode_num_drafts"]),
        drafted,
        accepted,
        int(counters["vllm:lmtp_num_cold_drafts"]),
        *copies,
    )


def with_known_lengths(spec: Any) -> Any:
    """Drafts of a length that an oracle can know, unless the test says how long they are."""
    says = ("lmtp_draft_length", "num_speculative_tokens_per_batch_size")
    spec = {"method": "lmtp"} if spec == "lmtp" else spec
    ours = isinstance(spec, dict) and spec.get("method", "lmtp") == "lmtp"
    if not ours or any(option in spec for option in says):
        return spec
    return {**spec, "lmtp_draft_length": "fixed"}
