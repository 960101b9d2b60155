"""Cells of known speeds, and results made of them."""

from __future__ import annotations

from typing import Any

from tests.eval.pages.test_report import FACTS, result
from vllm_lmtp.eval.engines import methods
from vllm_lmtp.eval.engines.cells import Cell
from vllm_lmtp.eval.measurements import tuning
from vllm_lmtp.eval.measurements.rates import summarise
from vllm_lmtp.eval.measurements.tuning import Setting

ANSWERS = ((1, 2, 3, 4), (5, 6, 7, 8))
PLAIN = Cell(ANSWERS, 2.0, 8)
"""Eight tokens in two seconds and eight steps: 4 tokens/s, 250 ms a step."""
DRAFTED = Cell(ANSWERS, 1.0, 4, 4, 12, 6, 5, 0.1)
"""The same in one second and four steps; 6 of 12 draft tokens accepted; 20 ms a pass."""
PLAN = {
    "streams": [1], "rounds": 1, "per_stream": 1, "least": 2, "eager": True, "threads": 1,
}  # fmt: skip


def swept(**seconds: tuple[float, ...]) -> dict[tuple[int, Setting], list[Cell]]:
    """Cells whose round took so many seconds; keys: s<batch size>_<length>, plain's length is p;
    a third part is the cut in percent."""
    found = {}
    for name, rounds in seconds.items():
        size, length, *cut = name[1:].split("_")
        setting = Setting(None if length == "p" else int(length), sum(map(int, cut)) / 100)
        found[int(size), setting] = [Cell(ANSWERS, s, 8, 2, 4, 2) for s in rounds]
    return found


def speed_result() -> dict[str, Any]:
    other = Cell(((1, 2, 9, 4), (5, 6, 7, 8)), 1.0, 4, 4, 12, 6, 5, 0.1)
    return result(
        "speed",
        plan=PLAN,
        methods=[methods.Method("plain").facts(), {"name": "l", "speculative_config": {"a": 1}}],
        not_measured=[{"name": "suffix", "why": "not installed"}],
        speed=[
            {"method": "plain", "streams": 1, **summarise([PLAIN], None)},
            {"method": "l", "streams": 1, **summarise([other], [PLAIN])},
        ],
    )


def tune_result(cuts: tuple[float, ...] = (0.0,)) -> dict[str, Any]:
    cells = swept(s1_p=(1.0, 1.0), s1_0=(1.0, 1.0), s1_2=(0.5, 0.5), s1_2_30=(0.4, 0.4))
    found = tuning.decide(cells, (1,), (2,), 0.03, cuts)
    config = {"method": "lmtp"}
    more = {"plan": PLAN, "heads": {"name": "h", **FACTS}, "speculative_config": config}
    return result("tune", **found, **more, verification=speed_result())
