"""Scores of lm-evaluation-harness with and without speculation, which must be the same.

The harness is not a dependency of this package. It runs in a process of its own for each way of
serving, through its own command and its own vLLM model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.eval.engines.methods import PLAIN, Method
from vllm_lmtp.eval.prompts.asking import Progress

DRAFTER_LINE = "L-MTP (vllm-lmtp "
"""What the drafter says in vLLM's log when it is loaded."""
Scores = dict[str, float]


@dataclass(frozen=True)
class Exam:
    """tasks: of the harness. limit: documents of each, None for all. include: a folder of tasks of
    one's own. chat: put documents into the chat template. model_args: of the harness's vLLM model
    beside model and speculation."""

    tasks: tuple[str, ...]
    limit: int | None
    include: Path | None
    chat: bool
    model_args: Mapping[str, Any]

    def command(self, model: str, method: Method, folder: Path) -> list[str]:
        """The harness's command for one way of serving; results go into the folder."""
        args: dict[str, Any] = {"pretrained": model, **self.model_args}
        if method.speculative_config is not None:
            args["speculative_config"] = method.speculative_config
        words = ["--model", "vllm", "--model_args", json.dumps(args), "--tasks", *self.tasks]
        words += ["--batch_size", "auto", "--output_path", str(folder)]
        words += [] if self.limit is None else ["--limit", str(self.limit)]
        words += [] if self.include is None else ["--include_path", str(self.include)]
        words += ["--apply_chat_template"] if self.chat else []
        return [sys.executable, "-m", "lm_eval", *words]


def check_harness() -> None:
    """Raises:
    LMTPError: lm-evaluation-harness is not installed.
    """
    if find_spec("lm_eval") is None:
        raise refuse(
            "lm_eval",
            "import",
            found="no such module",
            expected="lm-evaluation-harness, which asks and scores",
            remedy="pip install lm-eval, in an environment with vLLM and vllm-lmtp",
        )


def measure(
    model: str, methods: Sequence[Method], exam: Exam, progress: Progress
) -> dict[str, Any]:
    """Scores of every way of serving, and where they differ from plain decoding's.

    Args:
        methods: plain decoding first.

    Raises:
        LMTPError: the harness failed, or served without the drafts that it was told to serve with.
    """
    found: dict[str, Scores] = {}
    for method in methods:
        progress(f"{method.name}: lm_eval {' '.join(exam.tasks)}")
        found[method.name] = _examine(model, method, exam)
        progress(f"{method.name}: {_shown(found[method.name])}")
    return {
        "tasks": list(exam.tasks),
        "limit": exam.limit,
        "chat": exam.chat,
        "methods": [m.facts() for m in methods],
        "scores": [{"method": name, "scores": scores} for name, scores in found.items()],
        "differences": differences(found),
    }


def differences(found: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """Every score that is not plain decoding's."""
    plain = found[PLAIN]
    return [
        {"method": name, "score": score, "plain": plain.get(score), "found": scores.get(score)}
        for name, scores in found.items()
        for score in sorted(plain.keys() | scores.keys())
        if plain.get(score) != scores.get(score)
    ]


def read_scores(report: Mapping[str, Any]) -> Scores:
    """Every metric of every task in the harness's report, by "task, metric, filter"."""
    return {
        f"{task}, {name.replace(',', ', ')}": float(value)
        for task, metrics in report["results"].items()
        for name, value in metrics.items()
        if "," in name and "_stderr," not in name and isinstance(value, int | float)
    }


def _examine(model: str, method: Method, exam: Exam) -> Scores:
    with TemporaryDirectory() as folder:
        out = Path(folder)
        done = subprocess.run(
            exam.command(model, method, out),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        reports = sorted(out.rglob("results_*.json"))
        if done.returncode or not reports:
            raise refuse(
                "lm_eval",
                method.name,
                found=_last_line(done.stdout) or f"exit code {done.returncode}",
                expected="scores",
                remedy="run its command by hand: "
                + " ".join(exam.command(model, method, Path("OUT"))),
            )
        report = json.loads(reports[-1].read_text(encoding="utf-8"))
    if method.name != PLAIN and DRAFTER_LINE not in done.stdout:
        raise refuse(
            "lm_eval",
            method.name,
            found="an engine that never loaded the heads",
            expected="one that drafts, or equal scores would mean nothing",
            remedy="check that vllm-lmtp is installed in this environment (vllm-lmtp doctor)",
        )
    return read_scores(report)


def _shown(scores: Scores) -> str:
    return "; ".join(f"{name} {value:.4f}" for name, value in scores.items())


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
