"""How long things take here, as far as plans need to know."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from vllm_lmtp.training.devices import in_bfloat16
from vllm_lmtp.training.judging.tokens_a_step import HeldAnswers
from vllm_lmtp.training.runs.heads import Prepared
from vllm_lmtp.training.settings.heads import HeadsRun

WARM, TIMED = 3, 8


def seconds_a_shard(shards: Sequence[Path], workers: int, most: float) -> list[float]:
    """Of each worker, from the time between its first two shards.

    Args:
        shards: in the order of their numbers, at least two of each worker.
        most: seconds that it can have taken; an interruption may lie between shards.
    """
    times = [shard.stat().st_mtime for shard in shards]
    return [
        min(most, max(1e-3, abs(times[worker + workers] - times[worker])))
        for worker in range(workers)
    ]


def seconds_to_start(
    prompts: Path, shards: Sequence[Path], taken: Sequence[float], most: float
) -> float:
    """Of the engines, from the time the prompts were there to the first shard.

    Args:
        shards, taken, most: as `seconds_a_shard` took and gave them.
    """
    first = min(shard.stat().st_mtime for shard in shards)
    return min(most, max(0.0, first - prompts.stat().st_mtime - min(taken)))


def seconds_a_step(run: HeadsRun, prepared: Prepared, device: str) -> float:
    """Of training, on a model that is thrown away afterwards."""
    model = prepared.model.to(device).train()
    optimizer = prepared.optimizer(run)
    size = min(run.optim.batch_rows, len(prepared.positions))
    narrow, taken = in_bfloat16(run.optim.bf16), []
    for _ in range(WARM + TIMED):
        begun = time.perf_counter()
        batch = prepared.positions.batch(torch.randint(len(prepared.positions), (size,)))
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=narrow):
            loss = model(**batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run.optim.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        _wait(device)
        taken.append(time.perf_counter() - begun)
    return median(taken[WARM:])


def seconds_a_token(prepared: Prepared, device: str) -> float:
    """Of drafting after a held-out token, on the device where states are measured on the way or on
    the CPU, where the last one is calibrated and judged."""
    model = prepared.model.to(device)
    measured = HeldAnswers(prepared.held, model.loss.schedule, device)
    begun = time.perf_counter()
    measured.measure(model.trained())
    _wait(device)
    return (time.perf_counter() - begun) / max(1, len(measured))


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
