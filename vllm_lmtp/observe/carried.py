"""What the scheduler tells the frontend of drafts beyond what vLLM has fields for.

The stats of a step travel to the frontend as a fixed set of fields. vLLM reads
`num_draft_tokens_per_pos` nowhere and our counters read it by place, so ours ride behind its last
place: counts that are always three, then two lists, each after its length.

    cold drafts, copies drafted, copies accepted,
    n, microseconds of n drafting passes,
    m, m numbers of what the draft length does: of steps by length, and of sizes of batch
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_COLD, _COPIES_DRAFTED, _COPIES_ACCEPTED, _PASSES = range(4)
_NOTHING = [0, 0, 0, 0, 0]


class SizeInUse(NamedTuple):
    """most: requests of this size of batch. length: drafts a request in use. gain: estimated speed
    over plain decoding, in thousandths."""

    most: int
    length: int
    gain: int


class LengthReport(NamedTuple):
    """steps: by the drafts a request that were wanted of them. sizes: those met so far."""

    steps: Mapping[int, int]
    sizes: Sequence[SizeInUse]


def add_cold_draft(stats: Any) -> None:
    """Note one cold draft in a step's `SpecDecodingStats`."""
    noted, start = _with_room(stats)
    noted[start + _COLD] += 1


def add_copied_tokens(stats: Any, drafted: int, accepted: int) -> None:
    """Note how many tokens of a draft, and how many accepted ones, were copied from the text."""
    noted, start = _with_room(stats)
    noted[start + _COPIES_DRAFTED] += drafted
    noted[start + _COPIES_ACCEPTED] += accepted


def add_draft_passes(stats: Any, microseconds: list[int]) -> None:
    """Note how long drafting passes took in a step's `SpecDecodingStats`."""
    noted, start = _with_room(stats)
    count = noted[start + _PASSES]
    end = start + _PASSES + 1 + count
    noted[end:end] = microseconds
    noted[start + _PASSES] = count + len(microseconds)


def add_length_report(stats: Any, report: LengthReport) -> None:
    """Note what the draft length does; the newest report of a step replaces others."""
    noted, start = _with_room(stats)
    flat = [len(report.steps), *(n for pair in report.steps.items() for n in pair)]
    flat += [number for size in report.sizes for number in size]
    end = start + _PASSES + 1 + noted[start + _PASSES]
    noted[end:] = [len(flat), *flat]


def cold_drafts(stats: Any) -> int:
    """Cold drafts of one step, as noted by `add_cold_draft`."""
    return _noted(stats)[_COLD]


def copied_tokens(stats: Any) -> tuple[int, int]:
    """Draft and accepted tokens of one step that were copied, as noted by `add_copied_tokens`."""
    noted = _noted(stats)
    return noted[_COPIES_DRAFTED], noted[_COPIES_ACCEPTED]


def draft_passes(stats: Any) -> list[int]:
    """Microseconds of each drafting pass, as noted by `add_draft_passes`."""
    noted = _noted(stats)
    return noted[_PASSES + 1 :][: noted[_PASSES]]


def length_report(stats: Any) -> LengthReport | None:
    """As noted by `add_length_report`; None if nothing was."""
    noted = _noted(stats)
    flat = noted[_PASSES + 1 + noted[_PASSES] :][1:]
    if not flat:
        return None
    pairs, rest = flat[1 : 1 + 2 * flat[0]], flat[1 + 2 * flat[0] :]
    sizes = [SizeInUse(*rest[i : i + 3]) for i in range(0, len(rest), 3)]
    return LengthReport(dict(zip(pairs[::2], pairs[1::2], strict=True)), sizes)


def _noted(stats: Any) -> list[int]:
    return stats.num_draft_tokens_per_pos[stats.num_spec_tokens :] or _NOTHING


def _with_room(stats: Any) -> tuple[list[int], int]:
    """The list that holds the notes, and where they begin."""
    per_place: list[int] = stats.num_draft_tokens_per_pos
    if len(per_place) == stats.num_spec_tokens:
        per_place.extend(_NOTHING)
    return per_place, stats.num_spec_tokens
