"""What texts say of their own continuation at every place of a draft, beside what heads say of it.

A place comes to be judged only if all before it were right, so each is looked at with the true
tokens before it: one pass over an answer then serves every weight that copies may be given.

Shapes: N positions of an answer at which a draft is made, m places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vllm_lmtp.formats.checkpoint import HeadsCheckpoint
from vllm_lmtp.method.choice import Simply
from vllm_lmtp.method.copying import copied, newest_first
from vllm_lmtp.method.scorer import rows_of_tokens
from vllm_lmtp.training.data.kept_rows import Answer
from vllm_lmtp.training.judging.observed_drafts import (
    PlainHeads,
    decoder_of,
    own_scorer,
    steps_of,
)


@dataclass(frozen=True)
class Copies:
    """Heads and text side by side, of one answer.

    lengths: [N] int64, of the matches, at most `longest`. copy_right, best_right: [N, m] bool,
    whether the text's token, or the heads' best, is the one that came, given that all before did.
    of_best, of_copied: [N, m] float32, log-probabilities of both by the heads. known: [N] int64,
    how many places have a token that came.
    """

    lengths: Tensor
    copy_right: Tensor
    best_right: Tensor
    of_best: Tensor
    of_copied: Tensor
    known: Tensor


@torch.no_grad()
def observed_copies(
    checkpoint: HeadsCheckpoint, answers: Sequence[Answer], longest: int
) -> list[Copies]:
    """Every position of answers behind which a token came to judge a draft by.

    Args:
        longest: up to how many tokens of a match are told apart.
    """
    heads = PlainHeads(checkpoint)
    decoder = decoder_of(checkpoint, heads, own_scorer(checkpoint))
    row_of_token = rows_of_tokens(checkpoint.vocab_size, heads.target_ids)
    places = checkpoint.schedule.max_drafts
    found = []
    for answer in answers:
        text = torch.tensor([*answer.prompt, *answer.tokens], dtype=torch.int32)
        done, parts = 0, []
        for steps in steps_of(answer, checkpoint.schedule):
            count = len(steps.sampled)
            # The token after each position has been sampled when its draft is made.
            ends = len(answer.prompt) + done + 2 + torch.arange(count)
            done += count
            said = copied(newest_first(text.expand(count, -1), ends), places, longest)
            forced = _Forced(heads, row_of_token, steps.truth, said.tokens)
            decoder.fill(steps.states, steps.sampled, places, Simply(forced))
            known = (steps.truth >= 0).sum(dim=1)
            columns = (said.lengths, said.tokens == steps.truth, *forced.seen(), known)
            parts.append([column[known > 0] for column in columns])
        found.append(Copies(*(torch.cat(column) for column in zip(*parts, strict=True))))
    return found


class _Forced:
    """A chooser that takes the token that came, and notes what the heads would have taken.

    truth, copied: [N, m] int64 target tokens, negative where there is none.
    """

    def __init__(
        self, heads: PlainHeads, row_of_token: Tensor, truth: Tensor, copied: Tensor
    ) -> None:
        self.heads, self.row_of_token = heads, row_of_token
        self.truth, self.copied = truth, copied
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, scores: Tensor, place: int) -> Tensor:
        """As `choice.Filling`."""
        log_probability = scores.log_softmax(dim=1)
        best = self.heads.target_tokens(log_probability.argmax(dim=1))
        rows = self.row_of_token[self.copied[:, place].clamp(min=0)].unsqueeze(1)
        size = log_probability.shape[1]
        of_copied = log_probability.gather(1, rows.clamp(max=size - 1))
        of_copied = of_copied.masked_fill(rows >= size, float("-inf")).squeeze(1)
        right = best == self.truth[:, place]
        self._seen.append((right, log_probability.amax(dim=1), of_copied))
        return self.truth[:, place].clamp(min=0)

    def seen(self) -> tuple[Tensor, ...]:
        """`best_right`, `of_best` and `of_copied` of `Copies`."""
        return tuple(torch.stack(part, dim=1) for part in zip(*self._seen, strict=True))
