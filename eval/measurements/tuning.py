"""Finds, on this machine and for this model, the draft length that each batch size should have.

One engine measures all lengths, and all confidence cuts with them, so that they differ in nothing
else: what it looks a batch size up in is filled with one length after another. What a length must
beat is the faster, in each round, of the same engine drafting nothing and of a plain one: two
baselines are seldom disturbed at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.eval.engines.cells import Cell, CellStore, cell_of, key_of
from vllm_lmtp.eval.engines.methods import PLAIN, Method
from vllm_lmtp.eval.engines.process import refusing_failure
from vllm_lmtp.eval.engines.variants import Variant
from vllm_lmtp.eval.measurements.choice import choose_cut, schedule
from vllm_lmtp.eval.measurements.rates import summarise
from vllm_lmtp.eval.measurements.speed import Engines, Plan, common_facts, turned
from vllm_lmtp.eval.prompts.asking import Progress, Questions, Settings


@dataclass(frozen=True)
class Setting:
    """length: tokens of a draft, None for plain decoding. cut: least confidence, 0 for none."""

    length: int | None
    cut: float = 0.0

    def __str__(self) -> str:
        if self.length is None:
            return PLAIN
        return f"{self.length} draft token(s)" + (f" cut at {self.cut:g}" if self.cut else "")

    def facts(self) -> dict[str, Any]:
        """What a cell depends on, in the words of the time before there were cuts."""
        length = -1 if self.length is None else self.length
        return {"length": length} | ({"cut": self.cut} if self.cut else {})


HOPELESS = 0.85
"""A setting that is slower than this, against the baseline of its first round, is given up."""
NEAR = 0.95
"""Where none comes nearer in the first round, larger batches are not tried: a row to verify costs
more there."""
PLAIN_ENGINE, NO_DRAFTS = Setting(None), Setting(0)
Cells = Mapping[tuple[int, Setting], Sequence[Cell]]


def measure(
    variant: Variant,
    questions: Questions,
    settings: Settings,
    plan: Plan,
    lengths: Sequence[int],
    least_gain: float,
    cells_file: Path | None,
    progress: Progress,
    cuts: Sequence[float] = (),
) -> dict[str, Any]:
    """Measure, as far as `cells_file` does not know, and decide.

    Args:
        lengths: above 0; 0 and plain decoding are always measured.
        cuts: least confidences above 0, each with every length; none is always measured.

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
    lengths, cuts = sorted(set(lengths)), (0.0, *sorted(set(cuts)))
    swept = [PLAIN_ENGINE, NO_DRAFTS]
    swept += [Setting(length, cut) for cut in cuts for length in lengths]
    method = Method("lmtp", _every_setting(variant, (0, *lengths), cuts))
    engines = Engines(settings, questions, plan, 2, progress)
    with closing(engines), refusing_failure(settings.model, method.name):
        cells = _sweep(engines, method, questions, settings, plan, swept, cells_file, progress)
    return decide(cells, plan.streams, lengths, least_gain, cuts) | {
        "plan": {"streams": list(plan.streams), "rounds": plan.rounds} | plan.facts(),
        "heads": variant.facts(),
    }


def decide(
    cells: Cells,
    streams: Sequence[int],
    lengths: Sequence[int],
    least_gain: float,
    cuts: Sequence[float] = (0.0,),
) -> dict[str, Any]:
    """Speeds by batch size, length and cut, what is chosen, and vLLM's schedule of the lengths.

    Args:
        cells: of each round, by batch size and setting, PLAIN_ENGINE and NO_DRAFTS among them; of
            a setting that was given up only the first, or none; of a batch size where all were,
            only the first of everything.
        cuts: in order, 0 first.
    """
    loads, plain = [], []
    ratios: dict[float, dict[int, dict[int, list[float]]]] = {cut: {} for cut in cuts}
    for size in streams:
        baseline = _baseline(cells, size)
        plain.append({"streams": size} | summarise(cells[size, PLAIN_ENGINE], None))
        rates = summarise(cells[size, NO_DRAFTS], baseline)
        loads.append({"streams": size, "length": 0, "cut": 0.0} | rates)
        for cut in cuts:
            ratios[cut][size] = {}
            for length in lengths:
                if not (measured := cells.get((size, Setting(length, cut)))):
                    continue
                rates = summarise(measured, baseline[: len(measured)])
                given_up = _hopeless(cells, size, Setting(length, cut))
                load = {"streams": size, "length": length, "cut": cut} | rates
                loads.append(load | {"given_up": given_up})
                if not given_up:
                    ratios[cut][size][length] = rates["speed_up"]["rounds"]
    cut, chosen = choose_cut(ratios, least_gain)
    return {
        "lengths": [0, *lengths],
        "cuts": list(cuts),
        "least_gain": least_gain,
        "plain": plain,
        "loads": loads,
        "cut": cut,
        "chosen": [{"streams": size, "length": length} for size, length in chosen.items()],
        "schedule": [list(piece) for piece in schedule(chosen)],
    }


def _baseline(cells: Cells, size: int) -> list[Cell]:
    """Round by round the faster of plain decoding and drafting nothing."""
    pairs = zip(cells[size, PLAIN_ENGINE], cells[size, NO_DRAFTS], strict=True)
    return [max(pair, key=_speed) for pair in pairs]


def _speed(cell: Cell) -> float:
    return cell.tokens / cell.seconds


def _hopeless(cells: Cells, size: int, setting: Setting) -> bool:
    """Whether the first round showed that a setting need not be measured at a batch size (again).

    Args:
        cells: so far, with the whole first round of all smaller batch sizes.
    """
    if not setting.length:
        return False

    def against_baseline(where: int, which: Setting) -> float:
        pair = (cells[where, PLAIN_ENGINE][0], cells[where, NO_DRAFTS][0])
        return _speed(cells[where, which][0]) / max(map(_speed, pair))

    if (size, setting) in cells:
        return against_baseline(size, setting) < HOPELESS
    tried: dict[int, float] = {}
    for where, which in cells:
        if where < size and which.length:
            tried[where] = max(tried.get(where, 0.0), against_baseline(where, which))
    return any(best < NEAR for best in tried.values())


def _contended(cells: Cells, size: int, swept: Sequence[Setting]) -> bool:
    """Whether some draft may still pay at a batch size, so that its baselines are worth knowing."""
    return any(setting.length and not _hopeless(cells, size, setting) for setting in swept)


def tuned(
    variant: Variant, ranges: Sequence[Sequence[int]], cut: float = 0.0
) -> dict[str, Any] | None:
    """The speculative config of a schedule and a cut; None where it never drafts."""
    most = max(length for _, _, length in ranges)
    if not most:
        return None
    return (
        variant.speculative_config
        | {
            "num_speculative_tokens": most,
            "num_speculative_tokens_per_batch_size": [list(piece) for piece in ranges],
        }
        | ({"lmtp_min_confidence": cut} if cut else {})
    )


def _every_setting(
    variant: Variant, lengths: Sequence[int], cuts: Sequence[float]
) -> dict[str, Any]:
    """A schedule that names all lengths, as vLLM captures graphs for those that it finds there, and
    a cut where there is to be one, so that confidence is known."""
    ranges = [[size, size, length] for size, length in enumerate(lengths, 1)]
    return tuned(variant, ranges, max(cuts)) or variant.speculative_config


def _sweep(
    engines: Engines,
    method: Method,
    questions: Questions,
    settings: Settings,
    plan: Plan,
    swept: Sequence[Setting],
    cells_file: Path | None,
    progress: Progress,
) -> Cells:
    store = CellStore(cells_file)
    common = common_facts(questions, settings, plan)
    plain = Method(PLAIN)
    found: dict[tuple[int, Setting], list[Cell]] = {}
    total = plan.rounds * len(plan.streams) * len(swept)
    done = 0
    for number in range(plan.rounds):
        for streams in plan.streams:
            contended = not number or _contended(found, streams, swept)
            for setting in turned(swept, number):
                done += 1
                if not contended or _hopeless(found, streams, setting):
                    continue
                used = plain if setting == PLAIN_ENGINE else method
                facts = {"method": used.stamp()} | plan.turn_facts(streams, number)
                key = key_of(common | facts | setting.facts())
                said = "measured before"
                if (cell := store.get(key)) is None:
                    engine = engines.get(used)
                    if setting.length is not None:
                        engine.set_drafting(setting.length, setting.cut)
                    asked = plan.asked(questions, streams, None, number)
                    answers = plan.answers(streams, settings.max_tokens)
                    cell = cell_of(engine.stream(asked, streams, answers))
                    store.put(key, cell)
                    said = f"{cell.tokens / cell.seconds:.1f} tokens/s"
                progress(
                    f"[{done}/{total}] round {number + 1}, {streams} stream(s), {setting}: {said}"
                )
                found.setdefault((streams, setting), []).append(cell)
    return found
