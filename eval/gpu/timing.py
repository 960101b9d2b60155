"""Times of what runs on a device, and the bandwidth they are held against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

COPIED = 2**30
"""Bytes of the copy that measures bandwidth: more than any cache holds."""


def median_seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median time of one run, by the device's own clock where it has one."""
    for _ in range(3):
        run()
    if device.type != "cuda":
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return statistics.median(times)
    torch.cuda.synchronize(device)
    event: Any = torch.cuda.Event
    events = [(event(enable_timing=True), event(enable_timing=True)) for _ in range(repeats)]
    for begin, end in events:
        begin.record()
        run()
        end.record()
    torch.cuda.synchronize(device)
    return statistics.median(begin.elapsed_time(end) / 1e3 for begin, end in events)


def copy_bandwidth(device: torch.device, repeats: int, size: int = COPIED) -> float:
    """Bytes a second that a copy reads and writes together."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / median_seconds(lambda: target.copy_(source), device, repeats)


def as_graph(run: Callable[[], object]) -> Callable[[], None]:
    """`run` recorded as a CUDA graph; it must write to tensors that stay."""
    stream: Any = torch.cuda.Stream
    side = stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
