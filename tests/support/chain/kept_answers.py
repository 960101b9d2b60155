"""Answers of the exact chain as `distill` keeps them, with the rows they were read from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.support.chain.target import embeddings


def keep_rows(
    folder: Path,
    answers: Sequence[Sequence[int]],
    temperatures: Sequence[float],
    before: Sequence[int] = (5,),
) -> Path:
    """Write answers, each with the last token of its prompt first, whose row is the embedding of
    each token: that is all the target's hidden state is.

    before: the tokens of every prompt but its last.
    """
    from datasets import Dataset

    records = [
        {
            "tokens": [*before, *tokens],
            "prompt_tokens": len(before) + 1,
            "ended": False,
            "shard": "shard-000",
            "number": number,
            "source": "s",
            "temperature": temperature,
        }
        for number, (tokens, temperature) in enumerate(zip(answers, temperatures, strict=True))
    ]
    Dataset.from_list(records).save_to_disk(folder)
    rows = torch.cat([embeddings()[list(tokens[:-1])] for tokens in answers])
    bounds = torch.tensor([0, *(len(tokens) - 1 for tokens in answers)]).cumsum(0)
    save_file({"rows": rows, "bounds": bounds}, folder / "shard-000.rows.safetensors")
    return folder
