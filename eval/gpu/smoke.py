"""What a GPU machine has, and the engine arguments under which vLLM serves there.

    python -m vllm_lmtp.eval.gpu.smoke --out build/gpu/smoke

The embedded checkpoint is served plainly and with leap heads, with graphs, in float32, where the
tokens must be equal. Arguments are tried in turn until some serve; `smoke.json` names them for
whatever is measured next, the kernels that load, and the attention that vLLM chose.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_lmtp.checkpoints.subject import EMBEDDED
from vllm_lmtp.eval.gpu import engine
from vllm_lmtp.eval.provenance import provenance
from vllm_lmtp.formats.whole import write_json

FILE = "smoke.json"
GRAPHS = {"compilation_config": {"mode": 0, "cudagraph_mode": "FULL"}}
TRIED: tuple[dict[str, Any], ...] = (
    GRAPHS,
    GRAPHS | {"attention_config": {"backend": "TRITON_ATTN"}},
)
"""vLLM's own attention, then Triton's, which needs no compiled kernel."""
KERNELS = ("vllm._C_stable_libtorch", "vllm._C", "vllm.vllm_flash_attn", "triton")
_BACKEND = re.compile(r"Using (\S+) (?:attention )?backend", re.IGNORECASE)


def serving(folder: Path) -> dict[str, Any]:
    """The engine arguments that an earlier smoke test found to serve; vLLM's own if none did."""
    try:
        return dict(json.loads((folder / FILE).read_text(encoding="utf-8"))["engine"] or {})
    except (OSError, ValueError, KeyError):
        return {}


def main(argv: Sequence[str] | None = None) -> int:
    """Look and try. Returns 1 if nothing serves, or tokens are not plain decoding's."""
    parser = argparse.ArgumentParser(prog="vllm_lmtp.eval.gpu.smoke", description=__doc__)
    parser.add_argument("--engine", type=json.loads, help="try these arguments alone, JSON")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    words = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {
        "kind": "smoke",
        "kernels": {name: loads(name) for name in KERNELS},
        "tried": [],
        "engine": None,
        "provenance": provenance(["eval.gpu.smoke", *words], 0),
    }
    for number, options in enumerate([args.engine] if args.engine is not None else TRIED):
        tried = _try(options, args.tokens, args.out / f"try-{number}")
        found["tried"].append({"engine": options} | tried)
        if tried["serves"]:
            found["engine"] = options
        write_json(args.out / FILE, found)
        if tried["serves"]:
            return 0 if tried["equals_plain"] else 1
    return 1


def loads(module: str) -> str:
    """Import `module` in a process of its own: "loads", or the last word of its failure.

    A kernel compiled for another processor does not raise but ends the process with a signal.
    """
    command = [sys.executable, "-c", f"import {module}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return "loads"
    if done.returncode < 0:
        return signal.Signals(-done.returncode).name
    return (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]


def _try(options: dict[str, Any], tokens: int, out: Path) -> dict[str, Any]:
    words = ["--checkpoint", str(EMBEDDED), "--methods", "plain", "lmtp", "--dtype", "float32"]
    words += ["--head-dtypes", "auto", "--batches", "1", "4", "--tokens", str(tokens)]
    options = {"max_model_len": 256} | options
    code = engine.main([*words, "--engine", json.dumps(options), "--out", str(out)])
    result = json.loads((out / "engine.json").read_text(encoding="utf-8"))
    compared = [run["equals_plain"] for run in result["runs"] if "equals_plain" in run]
    logs = [log.read_text(encoding="utf-8", errors="replace") for log in out.glob("logs/*.log")]
    chosen = sorted({name for text in logs for name in _BACKEND.findall(text)})
    return {
        "serves": code == 0,
        "equals_plain": bool(compared) and all(compared),
        "attention": chosen,
        "failed": result["failed"],
    }


if __name__ == "__main__":
    sys.exit(main())
