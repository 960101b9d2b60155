"""Commands in order of worth, each with a box of time; their results outlive what comes next."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_lmtp.eval.gpu.jobs import cause
from vllm_lmtp.formats.whole import write_json

DONE, FAILED, OUT_OF_TIME, NOT_BEGUN = "done", "failed", "out of time", "not begun"
FILE = "stages.json"
GRACE = 10.0
"""Seconds between the request to end, upon which pytest still writes its report, and the end."""
LEAST = 10.0
"""Seconds without which a stage is not begun: no engine starts in fewer."""

Command = list[str]


@dataclass(frozen=True)
class Stage:
    """name: of its folder. share: of the whole time, at the most; what a stage leaves goes to those
    after it. commands: made once the stage's turn has come, from its folder and the seconds it has,
    since what was found before may decide them."""

    name: str
    share: float
    commands: Callable[[Path, float], Sequence[Command]]


def run_stages(
    stages: Sequence[Stage], out: Path, seconds: float, say: Callable[[str], None] = print
) -> dict[str, dict[str, Any]]:
    """Run what is not done yet; what became of each stage is written after every one.

    Args:
        seconds: for all of them together.
    """
    end = time.monotonic() + seconds
    found = {s.name: _before(out, s.name) or {"state": NOT_BEGUN} for s in stages}
    for stage in stages:
        left = end - time.monotonic()
        if found[stage.name]["state"] == DONE:
            say(f"{stage.name}: done before")
            continue
        box = left if stage is stages[-1] else min(left, stage.share * seconds)
        if box < LEAST:
            say(f"{stage.name}: no time left")
            continue
        say(f"{stage.name}: {box:.0f} s at the most")
        found[stage.name] = _run(stage, out / stage.name, box)
        write_json(out / FILE, found)
        say(f"{stage.name}: {found[stage.name]['state']} in {found[stage.name]['seconds']:.0f} s")
    write_json(out / FILE, found)
    return found


def _before(out: Path, name: str) -> dict[str, Any] | None:
    """What an earlier run wrote of a stage."""
    try:
        return dict(json.loads((out / FILE).read_text(encoding="utf-8"))[name])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _run(stage: Stage, folder: Path, box: float) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    found: dict[str, Any] = {"state": DONE, "commands": []}
    for number, command in enumerate(stage.commands(folder, box)):
        log = folder / f"{number}.log"
        code = _ended(command, log, box - (time.monotonic() - start))
        told: dict[str, Any] = {"command": command[1:], "code": code}
        if code is None:
            found["state"] = OUT_OF_TIME
        elif code:
            found["state"] = FAILED
            told["cause"] = cause(log.read_text(encoding="utf-8", errors="replace"))
        found["commands"].append(told)
        if code is None:
            break
    return found | {"seconds": round(time.monotonic() - start, 1)}


def _ended(command: Command, log: Path, seconds: float) -> int | None:
    """What a command ended with; None where its time was over, and it and its children are gone."""
    with log.open("w", encoding="utf-8") as handle:
        process = subprocess.Popen(
            command, stdout=handle, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            _tell(process, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            return None
        finally:
            _tell(process, signal.SIGKILL)
            process.wait()


def _tell(process: subprocess.Popen[bytes], what: signal.Signals) -> None:
    """A signal to the whole session, of which engines outlive the command that started them."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, what)
