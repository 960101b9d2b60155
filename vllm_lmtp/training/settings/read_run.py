"""Which kinds of run there are, and reading the file of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.training.settings.distill import DistillRun
from vllm_lmtp.training.settings.heads import HeadsRun
from vllm_lmtp.training.settings.parse import parse, read_yaml
from vllm_lmtp.training.settings.stages import BackboneRun, Stage1Run, Stage2Run

Run = BackboneRun | Stage1Run | Stage2Run | HeadsRun | DistillRun
RUNS: dict[str, type[Any]] = {
    "backbone": BackboneRun,
    "s1": Stage1Run,
    "s2": Stage2Run,
    "heads": HeadsRun,
    "distill": DistillRun,
}


def read_run(path: Path) -> Run:
    """Read a file of configs/train/, of any kind.

    Raises:
        LMTPError: the file cannot be read, or any field is wrong.
    """
    values = read_yaml(path)
    kind = values.get("run")
    if kind not in RUNS:
        raise refuse(
            str(path),
            "run",
            found=repr(kind) if "run" in values else "no such field",
            expected=" or ".join(RUNS),
            remedy="state which of the runs the file describes",
        )
    run: Run = parse(RUNS[kind], values, str(path))
    return run
