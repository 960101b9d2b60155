"""How often a head names the right token, on texts it was not trained on.

Two readings: top-1 and top-5 accuracy of each head at its own offset, and a calibration table of
top-1 agreement at every offset, whose maximum per head must lie at that head's offset. The table
is how a wrong `skip_token` shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.training.data.records import Row, pad_rows
from vllm_lmtp.training.model.chunked_loss import chunked_loss
from vllm_lmtp.training.model.heads import LeapHeads
from vllm_lmtp.training.model.loss import NEXT_TOKEN, pairs

TOP = 5


@torch.no_grad()
def head_accuracy(
    backbone: Any, heads: LeapHeads, stride: int, documents: Sequence[Sequence[int]], offsets: int
) -> dict[str, Any]:
    """Accuracies over all positions of `documents`, token ids with BOS and EOS.

    Args:
        offsets: the calibration table covers offsets 1..offsets. The backbone's own output matrix
            is listed as "lm_head".

    Returns:
        {"heads": [{"head", "offset", "top1", "top5"}], "calibration": {name: [share, ...]}}.
    """
    schedule = LeapSchedule(len(heads), stride)
    width = max(offsets, schedule.offset_of_head(len(heads) - 1))
    names = ["lm_head", *(f"head {i}" for i in range(len(heads)))]
    top1 = torch.zeros(len(names), width + 1)
    top5 = torch.zeros(len(names), width + 1)
    counts = torch.zeros(width + 1)
    device = heads[0].lm_head.weight.device
    for document in documents:
        ids = torch.tensor([list(document)], device=device)
        hidden = backbone.model(input_ids=ids).last_hidden_state[0]
        guesses = [backbone.lm_head(hidden).topk(TOP).indices]
        guesses += [heads[i](hidden).topk(TOP).indices for i in range(len(heads))]
        for offset in range(1, min(width, ids.shape[1] - 1) + 1):
            truth = ids[0, offset:, None]
            counts[offset] += len(truth)
            for name, guess in enumerate(guesses):
                hit: Tensor = guess[: len(truth)] == truth
                top1[name, offset] += int(hit[:, 0].sum())
                top5[name, offset] += int(hit.sum())
    top1, top5 = (t / counts.clamp(min=1) for t in (top1, top5))
    own = [
        {
            "head": i,
            "offset": (o := schedule.offset_of_head(i)),
            "top1": round(float(top1[i + 1, o]), 4),
            "top5": round(float(top5[i + 1, o]), 4),
        }
        for i in range(len(heads))
    ]
    table = {
        name: [round(float(share), 4) for share in top1[row, 1 : offsets + 1]]
        for row, name in enumerate(names)
    }
    return {"heads": own, "calibration": table}


@torch.no_grad()
def next_token_loss(model: Any, rows: Sequence[Row]) -> float:
    """Mean negative log-likelihood, in nats, of the answers' tokens of `rows`.

    Args:
        model: a `leap_model.LeapModel`.
    """
    total, count = 0.0, 0
    for row in rows:
        batch = pad_rows([row], 0)
        hidden = model.hidden_states(batch["input_ids"].to(model.lm_head.weight.device))
        states, targets = pairs(hidden, batch["labels"].to(hidden.device), NEXT_TOKEN)
        total += float(chunked_loss([(states, model.lm_head.weight)], targets, model.logits_budget))
        count += len(targets)
    return total / max(1, count)
