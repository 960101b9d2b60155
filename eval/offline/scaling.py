"""How accurate heads are against how much text they saw, from the logs that training leaves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import LMTPError, refuse

TOPS = ("top1", "top5", "top10", "top20")
WANTED = "training_log.json of heads, which holds own_text.train_tokens, epochs and held_out.heads"


def read_point(name: str, file: Path) -> dict[str, Any]:
    """One run of training.

    Returns:
        {"name", "tokens": of the text, "epochs" over it, "steps", "command", "held_out": its
        tokens, "offsets": {offset: {"top1", ...: shares}}}. Of two heads for one offset the better.

    Raises:
        LMTPError: the file is not the log of a run that trained heads.
    """
    try:
        log = json.loads(file.read_text(encoding="utf-8"))
        found: dict[str, dict[str, float]] = {}
        for head in log["held_out"]["heads"]:
            rates = {top: float(head[top]) for top in TOPS if top in head}
            offset = str(int(head["offset"]))
            found[offset] = max(found.get(offset, {}), rates, key=lambda r: r.get("top1", -1.0))
        return {
            "name": name,
            "tokens": int((log.get("own_text") or log["data"])["train_tokens"]),
            "epochs": float(log["epochs"]),
            "steps": log.get("steps"),
            "command": log["command"],
            "held_out": int(log["held_out"]["tokens"]),
            "offsets": found,
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refused(file, f"{type(error).__name__}: {error}") from error


def measure(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Points in the order of their tokens, and for each offset what a doubling of the text gained.

    Returns:
        {"points", "doubling": {offset: {"top1", "top10": what the share gained per doubling, by a
        least-squares line over log2(tokens); None for fewer than two amounts of text}}}.
    """
    ordered = sorted(points, key=lambda point: point["tokens"])
    offsets = sorted({int(o) for point in ordered for o in point["offsets"]})
    return {
        "points": ordered,
        "doubling": {
            str(offset): {top: _slope(ordered, str(offset), top) for top in ("top1", "top10")}
            for offset in offsets
        },
    }


def _slope(points: Sequence[Mapping[str, Any]], offset: str, top: str) -> float | None:
    pairs = [
        (math.log2(point["tokens"]), point["offsets"][offset][top])
        for point in points
        if top in point["offsets"].get(offset, {}) and point["tokens"] > 0
    ]
    if len({x for x, _ in pairs}) < 2:
        return None
    middle = sum(x for x, _ in pairs) / len(pairs)
    height = sum(y for _, y in pairs) / len(pairs)
    spread = sum((x - middle) ** 2 for x, _ in pairs)
    return round(sum((x - middle) * (y - height) for x, y in pairs) / spread, 5)


def _refused(file: Path, found: str) -> LMTPError:
    return refuse(
        str(file),
        "content",
        found=found,
        expected=WANTED,
        remedy="give the log of `vllm-lmtp train` with `run: heads` or `run: s1`",
    )
