"""Finds, on this machine and for this model, the draft length that each batch size should have.

One engine measures all lengths, so that they differ in nothing else: what it looks a batch size up
in is filled with one length after another. What a length must beat is the faster, in each round, of
the same engine drafting nothing and of a plain one: two baselines are seldom disturbed at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.eval.asking import Progress, Questions, Settings
from vllm_lmtp.eval.cells import Cell, CellStore, cell_of, key_of
from vllm_lmtp.eval.choice import choose, schedule
from vllm_lmtp.eval.methods import PLAIN, Method
from vllm_lmtp.eval.process import EngineFailedError
from vllm_lmtp.eval.rates import summarise
from vllm_lmtp.eval.speed import Engines, Plan, common_facts, first_prompts
from vllm_lmtp.eval.variants import Variant

PLAIN_ENGINE = -1
"""Stands for plain decoding where a draft length would."""
Cells = Mapping[tuple[int, int], Sequence[Cell]]


def measure(
    variant: Variant,
    questions: Questions,
    settings: Settings,
    plan: Plan,
    lengths: Sequence[int],
    least_gain: float,
    cells_file: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """Measure, as far as `cells_file` does not know, and decide.

    Args:
        lengths: above 0; 0 and plain decoding are always measured.

    Raises:
        LMTPError: a length is more than the heads give, or the engine cannot be run.
    """
    most = variant.checkpoint.schedule.max_drafts
    if too_long := [n for n in lengths if n > most]:
        raise refuse(
            "--lengths",
            "draft length",
            found=str(too_long[0]),
            expected=f"1 to {most}, what these heads give",
            remedy="leave it out",
        )
    swept = (0, *sorted(set(lengths)))
    method = Method("lmtp", _every_length(variant, swept))
    engines = Engines(settings, questions, plan, 2, progress)
    try:
        cells = _sweep(
            engines,
            method,
            questions,
            settings,
            plan,
            (PLAIN_ENGINE, *swept),
            cells_file,
            progress,
        )
    except EngineFailedError as error:
        raise refuse(
            settings.model,
            "lmtp",
            found=str(error),
            expected="an engine that serves the target with its heads",
            remedy="read vLLM's log above",
        ) from error
    finally:
        engines.close()
    return decide(cells, plan.streams, swept[1:], least_gain) | {
        "plan": {"streams": list(plan.streams), "rounds": plan.rounds} | plan.facts(),
        "heads": variant.facts(),
    }


def decide(
    cells: Cells, streams: Sequence[int], lengths: Sequence[int], least_gain: float
) -> dict[str, Any]:
    """Speeds by batch size and length, the lengths chosen, and vLLM's schedule of them.

    Args:
        cells: of each round, by batch size and length, length 0 and PLAIN_ENGINE among them.
    """
    loads, plain, chosen = [], [], {}
    for size in streams:
        baseline = [
            max(pair, key=lambda cell: cell.tokens / cell.seconds)
            for pair in zip(cells[size, PLAIN_ENGINE], cells[size, 0], strict=True)
        ]
        plain.append({"streams": size} | summarise(cells[size, PLAIN_ENGINE], None))
        ratios = {}
        for length in (0, *lengths):
            rates = summarise(cells[size, length], baseline)
            loads.append({"streams": size, "length": length} | rates)
            if length:
                ratios[length] = rates["speed_up"]["rounds"]
        chosen[size] = choose(ratios, least_gain)
    return {
        "lengths": [0, *lengths],
        "least_gain": least_gain,
        "plain": plain,
        "loads": loads,
        "chosen": [{"streams": size, "length": length} for size, length in chosen.items()],
        "schedule": [list(piece) for piece in schedule(chosen)],
    }


def tuned(variant: Variant, ranges: Sequence[Sequence[int]]) -> dict[str, Any] | None:
    """The speculative config of a schedule; None where it never drafts."""
    most = max(length for _, _, length in ranges)
    if not most:
        return None
    return variant.speculative_config | {
        "num_speculative_tokens": most,
        "num_speculative_tokens_per_batch_size": [list(piece) for piece in ranges],
    }


def _every_length(variant: Variant, lengths: Sequence[int]) -> dict[str, Any]:
    """A schedule that names all lengths, as vLLM captures graphs for those that it finds there."""
    ranges = [[size, size, length] for size, length in enumerate(lengths, 1)]
    return variant.speculative_config | {
        "num_speculative_tokens": max(lengths),
        "num_speculative_tokens_per_batch_size": ranges,
    }


def _sweep(
    engines: Engines,
    method: Method,
    questions: Questions,
    settings: Settings,
    plan: Plan,
    lengths: Sequence[int],
    cells_file: Path | None,
    progress: Progress,
) -> Cells:
    store = CellStore(cells_file)
    common = common_facts(questions, settings, plan)
    plain = Method(PLAIN)
    found: dict[tuple[int, int], list[Cell]] = {}
    total = plan.rounds * len(plan.streams) * len(lengths)
    done = 0
    for number in range(plan.rounds):
        turned = [*lengths[number % len(lengths) :], *lengths[: number % len(lengths)]]
        for streams in plan.streams:
            for length in turned:
                done += 1
                used = plain if length == PLAIN_ENGINE else method
                facts = {"method": used.stamp(), "streams": streams, "round": number}
                key = key_of(common | facts | {"length": length})
                said = "measured before"
                if (cell := store.get(key)) is None:
                    engine = engines.get(used)
                    if used is method:
                        engine.set_draft_length(length)
                    prompts = first_prompts(questions, plan.requests(streams))
                    cell = cell_of(engine.stream(prompts, streams, settings.max_tokens))
                    store.put(key, cell)
                    said = f"{cell.tokens / cell.seconds:.1f} tokens/s"
                what = PLAIN if length == PLAIN_ENGINE else f"{length} draft token(s)"
                progress(
                    f"[{done}/{total}] round {number + 1}, {streams} stream(s), {what}: {said}"
                )
                found.setdefault((streams, length), []).append(cell)
    return found
