"""Positions of answers, drawn at random over all of them, with the rows that a draft there reads.

Rows of one answer are alike, so a batch of few whole answers teaches little for its size. Files of
rows are mapped into memory, not read: a batch touches what it needs of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset

from vllm_lmtp.training.data.kept_rows import Answer
from vllm_lmtp.training.data.rows import IGNORE

Batch = dict[str, Tensor]


class Positions(Dataset[Batch]):
    """Every position of some answers from which a draft has a token to be right about.

    A batch of N of them has
        rows: [N, before + 1 + after, H], those of the position itself and its neighbours;
        tokens: int64 [N, places + 1], the token sampled there, and those that its draft is to name;
        labels: int64 [N, places], the latter, IGNORE beyond the end of the answer.
    What stands beyond the end in rows and tokens is any row and token of that answer.

    Args:
        before: rows before each position; it has so many in its answer.
        after: rows after it. places: of a draft.
        device: where batches are made. Off the CPU the rows of these answers are held there.
    """

    def __init__(
        self,
        answers: Sequence[Answer],
        before: int,
        after: int,
        places: int,
        device: str | torch.device = "cpu",
    ) -> None:
        files = sorted({answer.file for answer in answers})
        number = {file: i for i, file in enumerate(files)}
        self._offsets = torch.arange(-before, after + 1, device=device)
        self._ahead = torch.arange(1, places + 2, device=device)

        def column(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        self._file = column([number[answer.file] for answer in answers])
        self._begin = column([answer.begin for answer in answers])
        self._last = column([len(answer.tokens) - 1 for answer in answers])
        self._tokens = column([token for answer in answers for token in answer.tokens])
        self._first_token = (self._last + 1).cumsum(0) - self._last - 1
        # The last position with a label is two tokens before the end.
        counts = (self._last - 1 - before).clamp(min=0)
        self._answer = torch.repeat_interleave(counts)
        starts = (counts.cumsum(0) - counts)[self._answer]
        self._place = torch.arange(len(self._answer), device=device) - starts + before
        self._rows = [mapped_rows(file) for file in files]
        if torch.device(device).type != "cpu":
            # In one piece, so that a batch is a single gather.
            whole = torch.empty(
                (sum(answer.end - answer.begin for answer in answers), self._rows[0].shape[1]),
                dtype=self._rows[0].dtype,
                device=device,
            )
            begin, begins = 0, []
            for answer in answers:
                kept = self._rows[number[answer.file]][answer.begin : answer.end]
                end = begin + len(kept)
                whole[begin:end] = kept
                begins.append(begin)
                begin = end
            self._begin = column(begins)
            self._file.zero_()
            self._rows = [whole]

    def __len__(self) -> int:
        return len(self._answer)

    def __getitem__(self, index: int) -> Batch:
        """One position, as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """What a DataLoader asks for: the batch of some positions."""
        return self.batch(torch.tensor(indices, dtype=torch.int64))

    def batch(self, indices: Tensor) -> Batch:
        """The batch of some positions, int64 [N]."""
        indices = indices.to(self._answer.device)
        answer, place = self._answer[indices], self._place[indices]
        last = self._last[answer][:, None]
        rows = (place[:, None] + self._offsets).minimum(last - 1) + self._begin[answer][:, None]
        ahead = place[:, None] + self._ahead
        tokens = self._tokens[self._first_token[answer][:, None] + ahead.minimum(last)]
        labels = torch.where(ahead <= last, tokens, IGNORE)[:, 1:]
        return {"rows": self._gather(self._file[answer], rows), "tokens": tokens, "labels": labels}

    def _gather(self, file: Tensor, at: Tensor) -> Tensor:
        if len(self._rows) == 1:
            return self._rows[0][at]
        found = self._rows[0].new_empty(*at.shape, self._rows[0].shape[1])
        for number in torch.unique(file).tolist():
            chosen = (file == number).nonzero().squeeze(1)
            found[chosen] = self._rows[number][at[chosen]]
        return found


def as_it_is(batch: Batch) -> Batch:
    """What collates the batches of `Positions`: they are made whole."""
    return batch


@cache
def mapped_rows(file: Path) -> Tensor:
    """The rows [N, H] of a file that a distillation kept, in its dtype, mapped and not read."""
    with safe_open(str(file), framework="pt") as handle:
        rows: Tensor = handle.get_tensor("rows")
    return rows
