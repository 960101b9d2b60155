"""At which temperature drafts are best drawn, computed from kept rows: a trade-off, not a command.

    python -m vllm_lmtp.eval.offline.draft_temperature HEADS --teacher FOLDER --dataset DIR \
        --temperature T --output FILE

A target that samples at T accepts a token x drawn from q with probability min(1, p(x) / q(x)), so a
place is accepted with sum over x of min(p(x), q(x)); and a draft of the best token alone with p of
that token. The answers were sampled from p itself, so the places behind the first need no sampling:
the token y that came stands for an accepted one with the weight min(1, q(y) / p(y)), or, where the
best token is drafted, 1 if it is y and else 0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vllm_lmtp.eval.offline.sweep import RememberingHeads
from vllm_lmtp.eval.pages.words import table
from vllm_lmtp.eval.provenance import provenance
from vllm_lmtp.eval.statistics import share
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint, read_checkpoint
from vllm_lmtp.formats.read import draft_vocabulary
from vllm_lmtp.formats.whole import room_for, write_json
from vllm_lmtp.training.data.held_answers import check_answers, spread
from vllm_lmtp.training.data.kept_rows import Answer, load_rows, read_answers
from vllm_lmtp.training.data.records import split_held_out
from vllm_lmtp.training.judging.observed_drafts import own_scorer, steps_of
from vllm_lmtp.training.model.layout import output_matrix

TEMPERATURES = (0.25, 0.5, 0.7, 0.85, 1.0, 1.25, 1.5)
BEST = "best token"


def main(words: Sequence[str]) -> int:
    """Measure, write and print.

    Raises:
        LMTPError: heads or answers cannot be read, or do not fit together.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("heads", type=Path)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True, help="answers with kept rows")
    parser.add_argument("--held-out", type=int, help="of them, those that training leaves out")
    parser.add_argument("--temperature", type=float, required=True, help="of the answers taken")
    parser.add_argument("--draft-temperatures", type=float, nargs="+", default=TEMPERATURES)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    checkpoint = read_checkpoint(args.heads)
    answers = read_answers(args.dataset, -1)
    if args.held_out is not None:
        answers = split_held_out(answers, args.held_out, lambda answer: answer.asked)[1]
    chosen = spread([a for a in answers if a.temperature == args.temperature], args.tokens)
    check_answers(checkpoint, args.dataset, chosen)
    matrix = output_matrix(args.teacher).float()
    found = measure(checkpoint, matrix, chosen, args.temperature, args.draft_temperatures)
    result = {"provenance": provenance(["eval.offline.draft_temperature", *words], 0), **found}
    with room_for(args.output):
        write_json(args.output, result)
    places = [str(n + 1) for n in range(checkpoint.schedule.max_drafts)]
    print("\n".join(table(("drawn at", "length", "gain", *places), rows(found))))
    return 0


@torch.no_grad()
def measure(
    checkpoint: HeadsCheckpoint,
    matrix: Tensor,
    answers: Sequence[Answer],
    temperature: float,
    drawn_at: Sequence[float],
) -> dict[str, Any]:
    """How far drafts are to be expected to be accepted.

    Args:
        matrix: [V, H], the target's output matrix. answers: sampled at `temperature`.
        drawn_at: temperatures of the softmax that tokens are drawn from.

    Returns:
        {"temperature", "answers", "positions", "drafts": [{"drawn_at", "accepted": for each place
        the probability that it and all before it are accepted, "length", "se", "gain" over the best
        token, answer by answer, "gain_se"}]}.
    """
    assert temperature > 0
    heads, scorer = RememberingHeads(checkpoint), own_scorer(checkpoint)
    schedule, drafted = checkpoint.schedule, draft_vocabulary(checkpoint)
    ids = torch.arange(checkpoint.vocab_size) if drafted is None else drafted
    index = torch.full((checkpoint.vocab_size,), -1)
    index[ids] = torch.arange(len(ids))
    names = [BEST, *(f"{t:g}" for t in drawn_at)]
    sums = [[[0.0] * schedule.max_drafts for _ in answers] for _ in names]
    positions = [0] * len(answers)
    for number, answer in enumerate(answers):
        logits = load_rows(answer).float() @ matrix.T / temperature
        target = (logits[:, ids] - logits.logsumexp(dim=1, keepdim=True)).exp()  # [T, D]
        begin = 0
        for steps in steps_of(answer, schedule):
            heads.forget()
            count, stride, size = steps.states.shape
            positions[number] += int((steps.truth[:, 0] >= 0).sum())
            known = steps.states[:, -1] if scorer is None else scorer.begin(steps.states[:, -1])
            previous = steps.sampled
            weights = [torch.ones(count) for _ in names]
            for place in range(schedule.max_drafts):
                head, inner = divmod(place, stride)
                scores = heads.logits(steps.states.reshape(-1, size), head)
                scores = scores.view(count, stride, -1)[:, inner]
                if scorer is not None:
                    known = scorer.read(known, previous)
                    scores = scorer.add(scores, head, known)
                truth = steps.truth[:, place]
                there, came = truth >= 0, index[truth.clamp(min=0)]
                sure = there & (came >= 0)
                row = (torch.arange(begin, begin + count) + 1 + place).clamp(max=len(target) - 1)
                p = target[row]
                for way, drawn in enumerate((None, *drawn_at)):
                    taken, kept = _judged(scores, p, came.clamp(min=0), drawn)
                    sums[way][number][place] += float((weights[way] * taken)[there].sum())
                    weights[way] = weights[way] * kept * sure
                previous = truth.clamp(min=0)
            begin += count
    return {
        "temperature": temperature,
        "answers": len(answers),
        "positions": sum(positions),
        "drafts": [
            {"drawn_at": name, **_shares(of_name, sums[0], positions)}
            for name, of_name in zip(names, sums, strict=True)
        ],
    }


def rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells of a table."""
    return [
        (
            d["drawn_at"],
            f"{d['length']:.3f} ± {d['se']:.3f}",
            f"{d['gain']:.3f} ± {d['gain_se']:.3f}",
            *(f"{a:.3f}" for a in d["accepted"]),
        )
        for d in found["drafts"]
    ]


def _judged(
    scores: Tensor, p: Tensor, came: Tensor, drawn_at: float | None
) -> tuple[Tensor, Tensor]:
    """How likely a place is to be accepted, [R], and what the token that came stands for, [R].

    Args:
        scores, p: [R, D], of the heads and the target's. came: [R] int64, the heads' own id.
        drawn_at: the temperature; None for the best token.
    """
    if drawn_at is None:
        best = scores.argmax(dim=1)
        return p.gather(1, best[:, None])[:, 0], (best == came).float()
    q = (scores / drawn_at).softmax(dim=1)
    of_q, of_p = (share.gather(1, came[:, None])[:, 0] for share in (q, p))
    return torch.minimum(p, q).sum(dim=1), (of_q / of_p.clamp(min=1e-30)).clamp(max=1)


def _shares(
    sums: list[list[float]], of_best: list[list[float]], positions: list[int]
) -> dict[str, Any]:
    total = share([(sum(s), n) for s, n in zip(sums, positions, strict=True)])
    more = [(sum(s) - sum(b), n) for s, b, n in zip(sums, of_best, positions, strict=True)]
    gain, drafts = share(more), sum(positions)
    return {
        "accepted": [sum(column) / drafts for column in zip(*sums, strict=True)],
        "length": 1 + total["rate"],
        "se": total["se"],
        "gain": gain["rate"],
        "gain_se": gain["se"],
    }


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
