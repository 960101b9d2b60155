"""One engine after another, each in a process of its own whose whole log is kept."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

MARK = "<<measured>>"
"""Before the one line of a job's output that is its result, which vLLM may print around."""
ENGINE = "vllm_lmtp.eval.gpu.engine"
_RAISED = re.compile(r"(?:^|\s)((?:\w+\.)*[A-Z]\w*(?:Error|Exception)(?:: .*)?)$")
_CONSEQUENCES = ("EngineDeadError", "See root cause above", "See stack trace for root cause")


def run_job(job: dict[str, Any], log: Path) -> dict[str, Any]:
    """What the job printed behind `MARK`, or {"error": its cause, "log": name of the log}.

    Args:
        job: what `engine --one` takes.
        log: gets everything that the process prints.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", ENGINE, "--one", json.dumps(job)]
    with log.open("w", encoding="utf-8") as handle:
        done = subprocess.run(command, stdout=handle, stderr=subprocess.STDOUT, check=False)
    text = log.read_text(encoding="utf-8", errors="replace")
    for printed in text.splitlines():
        mark = printed.find(MARK)
        if mark >= 0:
            found: dict[str, Any] = json.loads(printed[mark + len(MARK) :])
            return found
    return {"error": cause(text) or f"ended with {done.returncode}", "log": log.name}


def cause(text: str) -> str | None:
    """The first exception of a log that is neither a mere warning nor another one's consequence.

    vLLM's processes report each other's deaths, so the last exception says least.
    """
    lines = [line for line in text.splitlines() if " WARNING " not in line]
    raised = [found[1] for line in lines if (found := _RAISED.search(line))]
    first = [line for line in raised if not any(word in line for word in _CONSEQUENCES)]
    return (first or raised or [None])[0]
