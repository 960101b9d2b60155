"""What heads with their scorer would have drafted on kept rows, and whether it was right.

Drafts are filled by the very decoder that serves them, as if every position of an answer were the
newest of an engine step. A place is observed where all places before it were right, for only then
does the engine come to judge it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from vllm_lmtp.formats.checkpoint import HeadsCheckpoint
from vllm_lmtp.formats.read import block_tensor, draft_vocabulary, output_matrix
from vllm_lmtp.method.backward import BackwardDecoder
from vllm_lmtp.method.choice import Simply
from vllm_lmtp.method.confidence import log_odds
from vllm_lmtp.method.history import History
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.method.scorer import Scorer
from vllm_lmtp.training.data.kept_rows import Answer, load_rows
from vllm_lmtp.worker.scorer_weights import build_scorer

STEPS = 512
"""Engine steps drafted at once."""


@dataclass(frozen=True)
class Drafts:
    """The drafts of one answer at N of its positions, of m places each.

    odds: [N, m] float32, the log-odds that the scored heads gave their tokens. right: [N] int64,
    how many of a draft's first tokens were the ones that came. known: [N] int64, how many of its
    places have a token that came.
    """

    odds: Tensor
    right: Tensor
    known: Tensor


@dataclass(frozen=True)
class Observed:
    """One place. odds: [N] float32, the log-odds that the scored heads gave their token. right: [N]
    bool, whether it was the token that came."""

    odds: Tensor
    right: Tensor


@dataclass(frozen=True)
class Steps:
    """Engine steps that draft after R positions of an answer in turn.

    states: [R, k, H] float32, what the heads read. sampled: [R] int64, the token after each
    position. truth: [R, m] int64, the tokens after that one, -1 beyond the end of the answer.
    """

    states: Tensor
    sampled: Tensor
    truth: Tensor


class PlainHeads:
    """The heads of a folder on one device, as `BackwardDecoder` asks for them, in float32."""

    def __init__(self, checkpoint: HeadsCheckpoint) -> None:
        self.layers = checkpoint.num_layers
        numbers = range(checkpoint.schedule.n_heads)
        self.blocks = [
            [block_tensor(checkpoint, i, kind, torch.float32) for kind in ("weight", "bias")]
            for i in numbers
        ]
        self.outputs = [output_matrix(checkpoint, i, torch.float32) for i in numbers]
        self.target_ids = draft_vocabulary(checkpoint)

    def logits(self, rows: Tensor, head: int) -> Tensor:
        """[N, H] -> [N, D]."""
        for _ in range(self.layers):
            rows = rows + silu(linear(rows, *self.blocks[head]))
        return linear(rows, self.outputs[head])

    def best_tokens(self, scores: Tensor) -> Tensor:
        """[N, D] -> [N] target tokens."""
        return self.target_tokens(scores.argmax(dim=-1))

    def target_tokens(self, ids: Tensor) -> Tensor:
        """Ids of the heads' vocabulary -> target tokens."""
        return ids if self.target_ids is None else self.target_ids[ids]

    def top_tokens(self, rows: Tensor, num_heads: int) -> Tensor:
        """[N, H] -> [N, num_heads] target tokens."""
        tops = [self.best_tokens(self.logits(rows, head)) for head in range(num_heads)]
        return torch.stack(tops, dim=-1)


def steps_of(answer: Answer, schedule: LeapSchedule) -> Iterator[Steps]:
    """An answer as the steps of an engine that accepts nothing, some hundred at a time."""
    states, tokens = load_rows(answer).float(), torch.tensor(answer.tokens)
    lags = torch.arange(schedule.stride - 1, -1, -1)
    places = torch.arange(2, 2 + schedule.max_drafts)
    for steps in torch.split(torch.arange(len(states)), STEPS):
        after = steps[:, None] + places
        truth = tokens[after.clamp(max=len(tokens) - 1)].masked_fill(after >= len(tokens), -1)
        read = states[(steps[:, None] - lags).clamp(min=0)]
        yield Steps(read, tokens[steps + 1], truth)


def decoder_of(
    checkpoint: HeadsCheckpoint, heads: PlainHeads, scorer: Scorer | None
) -> BackwardDecoder:
    """The decoder that serves these heads with this scorer, for rows that are at hand."""
    schedule = checkpoint.schedule
    history = History(1, schedule.stride, checkpoint.hidden_size, torch.float32, "cpu")
    return BackwardDecoder(schedule, heads, history, scorer)


def own_scorer(checkpoint: HeadsCheckpoint) -> Scorer | None:
    """The folder's scorer in float32 for all of the heads' vocabulary; None where it has none."""
    rows = checkpoint.output_rows
    return build_scorer(checkpoint, 0, rows, rows, torch.float32)


@torch.no_grad()
def drafted(checkpoint: HeadsCheckpoint, answers: Sequence[Answer]) -> list[Drafts]:
    """The drafts of every answer, at all positions behind which a token came to judge them by."""
    heads = PlainHeads(checkpoint)
    decoder = decoder_of(checkpoint, heads, own_scorer(checkpoint))

    def judged(steps: Steps) -> Drafts:
        odds = torch.empty(steps.truth.shape)

        def best(scores: Tensor, place: int) -> Tensor:
            odds[:, place] = log_odds(scores.amax(dim=1) - scores.logsumexp(dim=1))
            return heads.best_tokens(scores)

        draft = decoder.fill(steps.states, steps.sampled, odds.shape[1], Simply(best))
        right = (draft == steps.truth).long().cumprod(dim=1).sum(dim=1)
        known = (steps.truth >= 0).sum(dim=1)
        return Drafts(odds[known > 0], right[known > 0], known[known > 0])

    found = []
    for answer in answers:
        parts = [judged(steps) for steps in steps_of(answer, checkpoint.schedule)]
        columns = zip(*((p.odds, p.right, p.known) for p in parts), strict=True)
        found.append(Drafts(*map(torch.cat, columns)))
    return found


def observe(drafts: Sequence[Drafts]) -> list[Observed]:
    """Every place of a draft, where all places before it were right."""
    odds, right, known = (
        torch.cat([getattr(d, name) for d in drafts]) for name in ("odds", "right", "known")
    )
    places = []
    for place in range(odds.shape[1]):
        alive = (right >= place) & (known > place)
        places.append(Observed(odds[alive, place], right[alive] > place))
    return places


def acceptance(checkpoint: HeadsCheckpoint, answers: Sequence[Answer]) -> dict[str, Any]:
    """What a greedy target would accept, every position of greedy answers counting alike.

    Returns:
        {"answers", "positions", "accepted": the share of drafts whose first n tokens are right, for
        every n, "length": tokens a step}; nothing where no answer is greedy.
    """
    greedy = [answer for answer in answers if answer.temperature == 0]
    if not greedy:
        return {}
    places = observe(drafted(checkpoint, greedy))
    positions = len(places[0].right)
    accepted = [round(int(p.right.sum()) / max(1, positions), 4) for p in places]
    return {
        "answers": len(greedy),
        "positions": positions,
        "accepted": accepted,
        "length": round(1 + sum(accepted), 3),
    }
