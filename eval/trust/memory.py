"""What a server's processes keep in memory, and whether it grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psutil

MIB = 2**20
WARM = 0.25
"""Share of the time after which memory should have stopped to grow."""


@dataclass(frozen=True)
class Size:
    """MiB. resident: as systems count, pages that processes share in each of them. own: without
    pages of files and shared ones, which come and go with what else runs on the machine."""

    resident: float
    own: float


def sizes(pid: int) -> dict[str, Size]:
    """Of each process of a server, by what it is; one that ends meanwhile is left out."""
    found: dict[str, Size] = {}
    try:
        parent = psutil.Process(pid)
        everyone = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for process in everyone:
        try:
            name = "server" if process.pid == pid else _name(process)
            memory = process.memory_info()
        except psutil.NoSuchProcess:
            continue
        number = sum(other.split(" #")[0] == name for other in found)
        shared = getattr(memory, "shared", 0)
        size = Size(memory.rss / MIB, (memory.rss - shared) / MIB)
        found[name if not number else f"{name} #{number + 1}"] = size
    return found


def _name(process: psutil.Process) -> str:
    """vLLM gives its processes titles; Python's helpers tell themselves by what they import."""
    words = " ".join(process.cmdline())
    for helper in ("resource_tracker", "compile_worker", "forkserver"):
        if helper in words:
            return helper
    return words.split(" ")[0] if words.startswith("VLLM::") else process.name()


def slope(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """A straight line through a series.

    Args:
        points: (seconds, MiB).

    Returns:
        {"per_hour": MiB an hour, "se": its standard error}, None where there is too little. Values
        that follow each other are alike; the error is widened by how much their deviations are.
    """
    count = len(points)
    if count < 4:
        return {"per_hour": None, "se": None}
    hours = [at / 3600 for at, _ in points]
    sizes = [size for _, size in points]
    middle, mean = sum(hours) / count, sum(sizes) / count
    spread = sum((h - middle) ** 2 for h in hours)
    rate = sum((h - middle) * (s - mean) for h, s in zip(hours, sizes, strict=True)) / spread
    left = [s - mean - rate * (h - middle) for h, s in zip(hours, sizes, strict=True)]
    squares = sum(r * r for r in left)
    alike = 0.0
    if squares > 0:
        alike = sum(a * b for a, b in pairwise(left)) / squares
    alike = min(max(alike, 0.0), 0.99)
    error = math.sqrt(squares / (count - 2) / spread * (1 + alike) / (1 - alike))
    return {"per_hour": rate, "se": error}


def memory_of(readings: Sequence[tuple[float, dict[str, Size]]], seconds: float) -> dict[str, Any]:
    """How each process grew, and all together. `series`: all together over time.

    Args:
        readings: time, and the processes. seconds: the load lasted.
    """
    names = list(dict.fromkeys(name for _, found in readings for name in found))
    processes = []
    for name in names:
        points = [(at, found[name]) for at, found in readings if name in found]
        processes.append({"process": name} | _growth(points, seconds))
    everyone = [
        (at, Size(sum(s.resident for s in found.values()), sum(s.own for s in found.values())))
        for at, found in readings
    ]
    series = [(round(at, 1), round(s.resident, 1), round(s.own, 1)) for at, s in everyone]
    return {"processes": processes, "total": _growth(everyone, seconds), "series": series}


def _growth(points: Sequence[tuple[float, Size]], seconds: float) -> dict[str, Any]:
    """Of each kind of memory MiB at the first and the last reading, and the slope after the
    warm-up."""
    return {
        kind: {"first": round(ours[0][1], 1), "last": round(ours[-1][1], 1)}
        | slope([point for point in ours if point[0] >= WARM * seconds])
        for kind in ("resident", "own")
        for ours in [[(at, float(getattr(size, kind))) for at, size in points]]
    }


def over(found: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """How much faster memory of each kind grows than plain decoding's, and whether that can be told
    from chance (two standard errors)."""
    compared = {}
    for kind, ours in found.items():
        theirs = plain[kind]
        apart: dict[str, Any] = {"per_hour": None, "se": None, "told_apart": None}
        if ours["per_hour"] is not None and theirs["per_hour"] is not None:
            rate, error = (
                ours["per_hour"] - theirs["per_hour"],
                math.hypot(ours["se"], theirs["se"]),
            )
            apart = {"per_hour": rate, "se": error, "told_apart": rate > 2 * error}
        compared[kind] = apart
    return compared
