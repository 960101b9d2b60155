"""Packed training rows: several whole texts a row, the last one cut, so that nothing is padding.

Only a backbone learns from these: a head's label must never reach into another text, so the rows
of heads (data.py) hold one text each.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

IGNORE = -100


def pack(documents: Sequence[Sequence[int]], row_tokens: int, seed: int) -> Tensor:
    """Pack documents, in an order drawn from `seed`, into full rows.

    Every row starts with the start of a document, as every request does when served; what does
    not fit at a row's end is cut off.

    Returns:
        int16 or int32 [rows, row_tokens] token ids.
    """
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    rows: list[list[int]] = []
    row: list[int] = []
    for index in order:
        row.extend(documents[index])
        if len(row) >= row_tokens:
            rows.append(row[:row_tokens])
            row = []
    return torch.tensor(rows, dtype=torch.int32).reshape(-1, row_tokens)
