"""Training rows: token ids of one length, made from texts.

Two kinds. *Packed* rows (backbone) hold several whole texts, the last one cut, so that no token is
padding. *Padded* rows (heads) hold one text each, since a head's label must never reach into
another text.
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


def pad(documents: Sequence[Sequence[int]], pad_id: int, row_tokens: int) -> dict[str, Tensor]:
    """Pad documents on the right to the longest of them, cutting those above `row_tokens`.

    Returns:
        input_ids int64 [B, T] and labels int64 [B, T], equal but for IGNORE at padding. Rows need
        no attention mask: with causal attention nothing sees the padding to its right.
    """
    width = min(row_tokens, max(len(d) for d in documents))
    ids = torch.full((len(documents), width), pad_id, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORE)
    for place, document in enumerate(documents):
        tokens = torch.tensor(list(document[:width]), dtype=torch.int64)
        ids[place, : len(tokens)] = tokens
        labels[place, : len(tokens)] = tokens
    return {"input_ids": ids, "labels": labels}
