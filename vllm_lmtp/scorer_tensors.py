"""What a folder says about its scorer: the kind in config.json, and the tensors that belong to it.

Pure, as `tensors`: it judges what was read from headers. A scorer is optional (docs/scorer.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shown
from typing import Any, TypeGuard

from vllm_lmtp.errors import Refusal
from vllm_lmtp.tensors import FLOAT_DTYPES, INT8, TensorInfo

MARKOV, TABLE = "markov", "table"
MARKOV_EMBED, MARKOV_OUTPUT = "scorer.markov.embed", "scorer.markov.output"
TABLE_IDS, TABLE_RATIOS = "scorer.table.ids", "scorer.table.ratios"
REQUIRED = {MARKOV: (MARKOV_EMBED, MARKOV_OUTPUT), TABLE: (TABLE_IDS, TABLE_RATIOS)}
SCORER_TENSORS = (
    MARKOV_EMBED,
    f"{MARKOV_EMBED}_scale",
    MARKOV_OUTPUT,
    f"{MARKOV_OUTPUT}_scale",
    TABLE_IDS,
    TABLE_RATIOS,
)
FIELD = "scorer"
CONFIDENCE = "confidence"
LINE = ("slope", "intercept")


@dataclass(frozen=True)
class ScorerFacts:
    """The scorer of a folder. kind: MARKOV or TABLE. weight: of a table's ratios; 1 for a term.
    confidence: (slope, intercept) of each place, where it was calibrated."""

    kind: str
    weight: float = 1.0
    confidence: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class ScorerSizes:
    """What its tensors must fit. drafted: D, or V without a draft vocabulary. target: V."""

    n_heads: int
    drafted: int
    target: int


def read_scorer(
    config_file: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    sizes: ScorerSizes,
) -> tuple[ScorerFacts | None, list[Refusal]]:
    """The scorer, if there is one, and every fault in it.

    Args:
        tensors: those of the folder whose names are known.
    """
    held = {name: info for name, info in tensors.items() if name in SCORER_TENSORS}
    if FIELD not in config:
        remedy = 'restore "scorer" in config.json, or remove the tensors'
        return None, [
            Refusal(
                str(info.file), name, "a scorer that config.json does not state", "none", remedy
            )
            for name, info in held.items()
        ]
    stated = config[FIELD]
    kind = stated.get("kind") if isinstance(stated, dict) else None
    if not isinstance(kind, str) or kind not in REQUIRED:
        expected = f"an object whose kind is {MARKOV!r} or {TABLE!r}"
        remedy = "restore the config that was saved with the scorer, or remove scorer.*"
        return None, [Refusal(str(config_file), f"{FIELD}.kind", shown(stated), expected, remedy)]
    faults = [
        Refusal(str(config_file.parent), name, "no such tensor", f"that of a {kind}", _RESTORE)
        for name in (*REQUIRED[kind], *_scales_wanted(held))
        if name not in held
    ]
    for name, info in held.items():
        faults += _unfit(name, info, held, kind, sizes)
    weight: Any = stated.get("weight", "no such key") if kind == TABLE else 1.0
    if not _is_weight(weight):
        remedy = "set the weight that was found best, such as 0.8"
        expected = "a finite number from 0 on"
        where = str(config_file)
        faults.append(Refusal(where, f"{FIELD}.weight", shown(weight), expected, remedy))
        weight = 1.0
    lines, found = _lines(str(config_file), stated.get(CONFIDENCE))
    return ScorerFacts(kind, float(weight), lines), faults + found


_RESTORE = "restore the file that was saved with the scorer, or remove scorer.* and its config"


def _is_weight(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _lines(config_file: str, stated: Any) -> tuple[tuple[tuple[float, float], ...], list[Refusal]]:
    """The calibration of each place, and its faults; none where nothing is stated."""
    if stated is None:
        return (), []
    field, remedy = f"{FIELD}.{CONFIDENCE}", "calibrate again: vllm-lmtp scorer calibrate"
    places = stated.get("places") if isinstance(stated, dict) else None
    if not isinstance(places, list) or not places:
        expected = "an object with `places`, a list with one entry for each place of a draft"
        return (), [Refusal(config_file, field, shown(stated), expected, remedy)]
    lines, faults = [], []
    for number, place in enumerate(places):
        slope, intercept = (place.get(k) if isinstance(place, dict) else None for k in LINE)
        if _is_number(slope) and slope > 0 and _is_number(intercept):
            lines.append((float(slope), float(intercept)))
            continue
        expected = "an object with a slope above 0 and an intercept, finite numbers"
        where = f"{field}.places[{number}]"
        faults.append(Refusal(config_file, where, shown(place), expected, remedy))
    return tuple(lines), faults


def _is_number(value: Any) -> TypeGuard[int | float]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= 1e6 and math.isfinite(value)


def _scales_wanted(held: Mapping[str, TensorInfo]) -> list[str]:
    return [f"{name}_scale" for name, info in held.items() if info.dtype == INT8]


def _unfit(
    name: str,
    info: TensorInfo,
    held: Mapping[str, TensorInfo],
    kind: str,
    sizes: ScorerSizes,
) -> list[Refusal]:
    """Faults of one tensor of the scorer."""
    if not name.startswith(f"scorer.{kind}."):
        found, expected = f"a tensor beside a scorer of kind {kind}", f"scorer.{kind}.* alone"
        return [Refusal(str(info.file), name, found, expected, _RESTORE)]
    base = held.get(name.removesuffix("_scale"))
    if name.endswith("_scale") and base is not None and base.dtype != INT8:
        found, expected = f"scales beside a weight of dtype {base.dtype}", "scales for int8 only"
        return [Refusal(str(info.file), name, found, expected, _RESTORE)]
    shapes, dtypes = _expected(name, held, sizes)
    faults = []
    if info.shape not in shapes or 0 in info.shape:
        expected = "shape " + " or ".join(str(list(shape)) for shape in shapes)
        found = f"shape {list(info.shape)}"
        faults.append(Refusal(str(info.file), name, found, expected, _RESTORE))
    if info.dtype not in dtypes:
        expected = " or ".join(dtypes)
        faults.append(Refusal(str(info.file), name, f"dtype {info.dtype}", expected, _RESTORE))
    return faults


def _expected(
    name: str, held: Mapping[str, TensorInfo], sizes: ScorerSizes
) -> tuple[list[tuple[int, ...]], tuple[str, ...]]:
    """Shapes and dtypes that a tensor of the scorer may have."""
    if name.endswith("_scale"):
        base = held.get(name.removesuffix("_scale"))
        return [() if base is None else base.shape[:-1]], FLOAT_DTYPES
    first = MARKOV_EMBED if name.startswith("scorer.markov") else TABLE_IDS
    shape = held.get(first, held[name]).shape
    last = shape[-1] if shape else 1  # r, or K
    rows = sizes.drafted
    if name == MARKOV_EMBED:
        return [(rows + 1, last)], (*FLOAT_DTYPES, INT8)
    if name == MARKOV_OUTPUT:
        return [(rows, last), (sizes.n_heads, rows, last)], (*FLOAT_DTYPES, INT8)
    dtype = "I32" if name == TABLE_IDS else "F16"
    return [(sizes.target, last), (rows + 1, last)], (dtype,)
