"""Acceptance in the files that speculators and ModelOpt write: one folder for each heads and T."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_lmtp.formats.whole import write_json, write_text

FOLDER, CSV, JSON = "peers", "acceptance.csv", "acceptance_rate.json"


def write_peer_files(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `peers/<heads>-t<T>/acceptance.csv` and `acceptance_rate.json` beside a result.

    Results of a time before these were measured have none.
    """
    written = []
    for variant in result["variants"]:
        for found in variant["temperatures"]:
            if "speculators" not in found:
                continue
            name = re.sub(r"[^\w.+-]+", "-", variant["name"])
            place = folder / FOLDER / f"{name}-t{found['temperature']:g}"
            place.mkdir(parents=True, exist_ok=True)
            write_text(place / CSV, as_csv(found["speculators"]))
            write_json(place / JSON, found["modelopt"])
            written += [place / CSV, place / JSON]
    return written


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows of the same fields under one header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
