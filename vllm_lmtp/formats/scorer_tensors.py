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
from vllm_lmtp.formats.tensors import FLOAT_DTYPES, INT8, TensorInfo

MOST_MATCH = 64
"""The longest match of a text with itself that is told from longer ones."""

MARKOV, RECURRENT, TABLE = "markov", "recurrent", "table"
EMBED, OUTPUT, START, CARRY = "embed", "output", "start", "carry"
IDS, RATIOS = "ids", "ratios"
REQUIRED = {
    MARKOV: (EMBED, OUTPUT),
    RECURRENT: (START, CARRY, EMBED, OUTPUT),
    TABLE: (IDS, RATIOS),
}
"""The tensors of each kind; where they stand in a file `tensor_name` says."""
MAY_BE_INT8 = (EMBED, OUTPUT)
TERMS = (MARKOV, RECURRENT)
FIELD = "scorer"
CONFIDENCE = "confidence"
TRAINED_WITH, WITH_HEADS = "trained_with", "heads"
"""Field that says what a term was trained with, and its value where that was the heads."""
COPYING, LOG_ODDS, ACCURACY = "copying", "log_odds", "accuracy"
LINE = ("slope", "intercept")


def tensor_name(kind: str, part: str) -> str:
    """The name in a file of a part of a scorer."""
    return f"scorer.{kind}.{part}"


SCORER_TENSORS = tuple(
    tensor_name(kind, part) + suffix
    for kind, parts in REQUIRED.items()
    for part in parts
    for suffix in ("", "_scale")[: 1 + (part in MAY_BE_INT8)]
)


@dataclass(frozen=True)
class ScorerFacts:
    """The scorer of a folder. kind: of `REQUIRED`. weight: of a table's ratios; 1 for a term.
    confidence: (slope, intercept) of each place, where it was calibrated. copy_log_odds: of what
    the request's text says, by length of match, where they were fitted. copy_accuracy: how often
    such a match is right."""

    kind: str
    weight: float = 1.0
    confidence: tuple[tuple[float, float], ...] = ()
    copy_log_odds: tuple[float, ...] = ()
    copy_accuracy: tuple[float, ...] = ()


@dataclass(frozen=True)
class ScorerSizes:
    """What its tensors must fit. hidden: H. drafted: D or, where there is none, V. target: V."""

    n_heads: int
    hidden: int
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
        expected = f"an object whose kind is {' or '.join(map(repr, REQUIRED))}"
        remedy = "restore the config that was saved with the scorer, or remove scorer.*"
        return None, [Refusal(str(config_file), f"{FIELD}.kind", shown(stated), expected, remedy)]
    faults = [
        Refusal(str(config_file.parent), name, "no such tensor", f"that of a {kind}", _RESTORE)
        for name in (*(tensor_name(kind, part) for part in REQUIRED[kind]), *_scales_wanted(held))
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
    lines, unread = _lines(str(config_file), stated.get(CONFIDENCE))
    odds, accuracy, unfit = _copying(str(config_file), stated.get(COPYING))
    return ScorerFacts(kind, float(weight), lines, odds, accuracy), faults + unread + unfit


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


def _copying(
    config_file: str, stated: Any
) -> tuple[tuple[float, ...], tuple[float, ...], list[Refusal]]:
    """What copies count and how often they are right, by length of match, and faults of both; none
    where nothing is stated."""
    if stated is None:
        return (), (), []
    known = stated if isinstance(stated, dict) else {}
    odds, shares = known.get(LOG_ODDS), known.get(ACCURACY, [])
    good = isinstance(odds, list) and 1 <= len(odds) <= MOST_MATCH and all(map(_is_number, odds))
    within = isinstance(shares, list) and all(_is_number(s) and 0 <= s <= 1 for s in shares)
    if good and within and len(shares) <= MOST_MATCH:
        return tuple(map(float, odds or ())), tuple(map(float, shares)), []
    expected = (
        f"an object with `{LOG_ODDS}`, a list of 1 to {MOST_MATCH} finite numbers, and perhaps "
        f"`{ACCURACY}`, as many of 0 to 1"
    )
    remedy = "calibrate again: vllm-lmtp scorer calibrate"
    return (), (), [Refusal(config_file, f"{FIELD}.{COPYING}", shown(stated), expected, remedy)]


def _is_number(value: Any) -> TypeGuard[int | float]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= 1e6 and math.isfinite(value)


def _width(kind: str, held: Mapping[str, TensorInfo]) -> int:
    """r of a term or K of a table, by the first of its tensors that is there."""
    for part in (IDS, RATIOS) if kind == TABLE else (EMBED, OUTPUT):
        info = held.get(tensor_name(kind, part))
        if info is not None and info.shape:
            return info.shape[-1]
    return 1


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
    _, kind, part = name.split(".")
    last = _width(kind, held)
    rows = sizes.drafted
    if kind == TABLE:
        return [(sizes.target, last), (rows + 1, last)], ("I32" if part == IDS else "F16",)
    shapes: dict[str, list[tuple[int, ...]]] = {
        EMBED: [(rows + 1, last)],
        OUTPUT: [(rows, last), (sizes.n_heads, rows, last)],
        START: [(last, sizes.hidden)],
        CARRY: [(last, 2 * last)],
    }
    return shapes[part], (*FLOAT_DTYPES, INT8) if part in MAY_BE_INT8 else FLOAT_DTYPES
