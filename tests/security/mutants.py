"""Seeded mutants of folders of heads: the same number gives the same folder on any machine."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save

from tests.support import folders
from vllm_lmtp.formats.checkpoint import CONFIG_FILE, INDEX_FILE

SCORED = {kind: {"kind": kind} for kind in ("markov", "recurrent")} | {
    "table": {
        "kind": "table",
        "weight": 0.8,
        "confidence": {"places": [{"slope": 1.0, "intercept": 0.0}] * 4},
        "copying": {"log_odds": [-1.0, 0.5], "accuracy": [0.2, 0.6]},
    }
}
FORMS: list[tuple[dict[str, Any], bytes]] = [
    (folders.config(), save(folders.heads())),
    (folders.config(stage1=True), save(folders.heads() | folders.backbone())),
    (folders.reduced_config(), save(folders.reduced())),
    *(
        (folders.config(scorer=facts), save(folders.heads() | folders.scorer(kind)))
        for kind, facts in SCORED.items()
    ),
]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 63, 64, 65, 2**24, 2**31, 2**63, 10**12, 10**40),
    *(0.5, 2.0, -0.0, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", "lmtp", "2", "\ud800", "../x", "/etc/passwd", "a\0b", "x" * 5000),
    *([], {}, [2], {"kind": "table"}, [[[[]]]], {"weight_map": {"x": "../x"}}, ["LMTPModel"]),
]
DTYPES = ["F32", "F16", "BF16", "I8", "U8", "I32", "I64", "F64", "BOOL", "F8_E4M3", "F99", "", 7]
NUMBERS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 2**31, 2**32, 2**60, 2**63, 2**64, -1, 1.5, None, "4", []]


def regular(file: Path) -> bool:
    """Whether a file can be changed: not a pipe, a link, or a hole of a terabyte."""
    return file.is_file() and not file.is_symlink() and file.stat().st_size < 10**7


def make(folder: Path, number: int) -> None:
    """Write mutant `number` into an empty folder."""
    dice = random.Random(number)
    config, weights = dice.choice(FORMS)
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    (folder / folders.WEIGHTS).write_bytes(weights)
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        dice.choice(MUTATIONS)(folder, dice)


def _of_config(folder: Path, dice: random.Random) -> None:
    """Another value at any depth of config.json, or none."""
    if not regular(folder / CONFIG_FILE):
        return
    try:
        whole: Any = json.loads((folder / CONFIG_FILE).read_text())
    except (OSError, ValueError):
        return
    place = whole
    while isinstance(place, dict | list) and place:
        key = dice.choice(list(place) if isinstance(place, dict) else range(len(place)))
        inner = place[key]
        if isinstance(inner, dict | list) and inner and dice.random() < 0.7:
            place = inner
            continue
        if dice.random() < 0.2:
            del place[key]
        else:
            place[key] = dice.choice(VALUES)
        break
    (folder / CONFIG_FILE).write_text(json.dumps(whole))


def _of_header(folder: Path, dice: random.Random) -> None:
    """Another name, dtype, shape or place of a tensor; the header's length is right again."""
    file = folder / folders.WEIGHTS
    if not regular(file):
        return
    try:
        content = file.read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + size])
        entry = header.pop(name := dice.choice(sorted(header)))
        kind = dice.randrange(5)
        if kind == 0:
            name = dice.choice([*header, "heads.heads.2.lm_head.weight", "heads.x", "", "../x"])
        elif kind == 1:
            entry["dtype"] = dice.choice(DTYPES)
        elif kind == 2:
            entry["shape"] = [dice.choice(NUMBERS) for _ in range(dice.randrange(4))]
        elif kind == 3:
            entry["data_offsets"] = [dice.choice(NUMBERS) for _ in range(dice.randrange(4))]
        else:
            entry = dice.choice([*VALUES, entry | {"more": 1}])
    except (OSError, ValueError, KeyError, TypeError, struct.error, AttributeError, IndexError):
        return
    if dice.random() < 0.9:
        header[name] = entry
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def _of_bytes(folder: Path, dice: random.Random) -> None:
    """Bytes of any file changed, taken away or put in."""
    file = folder / dice.choice([CONFIG_FILE, folders.WEIGHTS, folders.WEIGHTS])
    if not regular(file):
        return
    content = bytearray(file.read_bytes())
    for _ in range(dice.choice([1, 1, 4, 40])):
        # The beginning decides more than the rest.
        at = int(len(content) * dice.random() ** dice.choice([1, 4]))
        kind = dice.randrange(4)
        if kind == 0:
            content[at : at + 1] = dice.randbytes(1)
        elif kind == 1:
            del content[at : at + dice.randrange(1, 20)]
        elif kind == 2:
            content[at:at] = dice.randbytes(dice.randrange(1, 20))
        else:
            content[at : at + 8] = struct.pack("<Q", dice.choice([0, 2**32, 2**60, 2**64 - 1]))
    if dice.random() < 0.2:
        del content[dice.randrange(len(content) + 1) :]
    file.write_bytes(content)


def _of_index(folder: Path, dice: random.Random) -> None:
    """An index that may name anything."""
    names = [folders.WEIGHTS, "../" + folders.WEIGHTS, CONFIG_FILE, "", ".", "x", "/dev/zero"]
    entries = {f"t{i}": dice.choice([*names, *VALUES]) for i in range(dice.randrange(4))}
    index: Any = {"weight_map": dice.choice([entries, dict.fromkeys("ab", names[0]), *VALUES])}
    if not os.path.lexists(folder / INDEX_FILE) or regular(folder / INDEX_FILE):
        text = json.dumps(dice.choice([index, index, dice.choice(VALUES)]))
        (folder / INDEX_FILE).write_text(text)


def _of_files(folder: Path, dice: random.Random) -> None:
    """A file gone, doubled, or something else than a file."""
    name = dice.choice([CONFIG_FILE, folders.WEIGHTS, INDEX_FILE, "a.safetensors", "a.bin"])
    file, kind = folder / name, dice.randrange(6)
    content = file.read_bytes() if regular(file) else b""
    if file.is_symlink() or file.exists():
        if file.is_dir():
            return
        file.unlink()
    if kind == 1:
        file.mkdir()
    elif kind == 2:
        os.mkfifo(file)
    elif kind == 3:
        file.symlink_to(dice.choice(["gone", ".", "/dev/zero", "/proc/self/maps", "config.json"]))
    elif kind == 4:
        file.write_bytes(content)
        other = folder / "b.safetensors"
        if not os.path.lexists(other):
            other.write_bytes(content)
    elif kind == 5:
        file.write_bytes(content)
        os.truncate(file, dice.choice([0, len(content) // 2, 10**6, 2**40]))


MUTATIONS: list[Callable[[Path, random.Random], None]] = [
    *(_of_config, _of_config, _of_header, _of_header),
    *(_of_bytes, _of_bytes, _of_index, _of_files),
]
