"""A distilled data set with kept rows, small and made up."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

END = 10


def save_kept(
    folder: Path,
    texts: list[tuple[list[int], list[int], bool]],
    hidden: int,
    temperatures: list[float] | None = None,
    shards: int = 1,
) -> Path:
    """Prompts, answers, and whether they ended; the values of row i of a shard are i + 100 shards.

    Texts are dealt to the shards in turn.
    """
    from datasets import Dataset

    records = []
    for shard in range(shards):
        part = texts[shard::shards]
        name = f"shard-{shard:03}"
        for number, (prompt, answer, ended) in enumerate(part):
            at = number * shards + shard
            record = {
                "tokens": [*prompt, *answer],
                "prompt_tokens": len(prompt),
                "ended": ended,
                "shard": name,
                "number": number,
                "source": "s",
                "temperature": temperatures[at] if temperatures else 0.5,
                "end_token": END if ended else None,
            }
            records.append((at, record))
    records.sort(key=lambda pair: pair[0])
    Dataset.from_list([record for _, record in records]).save_to_disk(folder)
    for shard in range(shards):
        lengths = [len(answer) + ended for _, answer, ended in texts[shard::shards]]
        rows = torch.arange(sum(lengths), dtype=torch.float32)[:, None].expand(-1, hidden)
        bounds = torch.tensor([0, *lengths]).cumsum(0)
        save_file(
            {"rows": (rows + 100.0 * shard).contiguous(), "bounds": bounds},
            folder / f"shard-{shard:03}.rows.safetensors",
        )
    return folder
