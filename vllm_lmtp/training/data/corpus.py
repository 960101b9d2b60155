"""Sampled texts read back for training: which are kept and which are held out.

A text is dropped when it never ended (cut by the length limit), when it loops, or when the same
text was seen before; each reason is counted. Knows nothing of models.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.whole import numbered_lines
from vllm_lmtp.training.data.records import split_held_out

# A text whose 4-word phrases recur this often on average goes round in circles; in the stories
# the ratio of an ordinary text stays below 1.5.
LOOP_WORDS = 4
LOOP_RATIO = 2.0


@dataclass(frozen=True)
class Corpus:
    """texts: kept records, in file order. counts: read, kept and dropped, by reason."""

    texts: tuple[dict[str, Any], ...]
    counts: dict[str, int]

    def split(self, held_out: int) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]:
        """(training, held-out) records; the held-out ones lie evenly over the shards.

        Raises:
            LMTPError: nothing would be left to train on.
        """
        train, held = split_held_out(self.texts, held_out)
        return tuple(train), tuple(held)


def shard_paths(folder: Path) -> list[Path]:
    """The finished shards of a folder, in order; unfinished ones have another suffix."""
    return sorted(folder.glob("shard-*.jsonl"))


def read_records(shards: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Every record of some shards, in order, with "shard", the file's stem, and "number", from 0.

    Raises:
        LMTPError: a line is not a record.
    """
    for shard in shards:
        for number, line in numbered_lines(shard):
            yield _record(shard, number, line) | {"shard": shard.stem, "number": number - 1}


def read_corpus(shards: Sequence[Path]) -> Corpus:
    """Read shards that `sample` wrote.

    Raises:
        LMTPError: a line is not a record, or no text was kept.
    """
    counts: Counter[str] = Counter(read=0, unended=0, loops=0, duplicates=0)
    seen: set[str] = set()
    kept: list[dict[str, Any]] = []
    for record in read_records(shards):
        counts["read"] += 1
        text = record["text"]
        if not record["ended"] or not text:
            counts["unended"] += 1
        elif loops(text):
            counts["loops"] += 1
        elif text in seen:
            counts["duplicates"] += 1
        else:
            seen.add(text)
            kept.append(record)
    if not kept:
        raise refuse(
            str(shards[0].parent) if shards else "corpus",
            "texts",
            found=f"none kept of {counts['read']}",
            expected="texts that ended by themselves",
            remedy="raise max_tokens, or check that the sampled model ends its texts with EOS",
        )
    counts["kept"] = len(kept)
    return Corpus(tuple(kept), dict(counts))


def loops(text: str) -> bool:
    """Whether a text repeats its own phrases over and over."""
    words = text.split()
    phrases = [tuple(words[i : i + LOOP_WORDS]) for i in range(len(words) - LOOP_WORDS + 1)]
    return len(phrases) >= 2 * LOOP_WORDS and len(phrases) >= LOOP_RATIO * len(set(phrases))


def _record(shard: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if isinstance(record["text"], str) and isinstance(record["ended"], bool):
            return dict(record)
    except (ValueError, KeyError, TypeError):
        pass
    raise refuse(
        f"{shard}:{number}",
        "record",
        found=repr(line[:60]),
        expected='a JSON object with "text" and "ended"',
        remedy="delete the shard; the next run samples it again",
    )
