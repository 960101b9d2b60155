"""A scorer in, the same scorer out, its confidence calibrated, and what copies count beside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.formats.files import read_folder
from vllm_lmtp.formats.scorer_tensors import ACCURACY, CONFIDENCE, COPYING, FIELD, LOG_ODDS
from vllm_lmtp.formats.speculators import moved_target
from vllm_lmtp.method.confidence import Confidence
from vllm_lmtp.tools.folders.save import Written, write_folder
from vllm_lmtp.tools.scorers.copying import LONGEST, accuracy, fitted_or_default
from vllm_lmtp.tools.scorers.cuts import LEAST, Cut, cut_at
from vllm_lmtp.tools.scorers.reliability import Bin, expected_error, fit_line, reliability
from vllm_lmtp.training.data.held_answers import check_answers, spread
from vllm_lmtp.training.data.kept_rows import read_answers
from vllm_lmtp.training.data.records import split_held_out
from vllm_lmtp.training.distillation.distill import DATASET
from vllm_lmtp.training.judging.observed_copies import observed_copies
from vllm_lmtp.training.judging.observed_drafts import Observed, drafted, observe


@dataclass(frozen=True)
class Place:
    """One place. slope, intercept: its line. before, after: how reliable the confidence is without
    and with it, on observations that it was not fitted to."""

    slope: float
    intercept: float
    fitted: int
    before: tuple[Bin, ...]
    after: tuple[Bin, ...]

    def facts(self) -> dict[str, Any]:
        """Its entry in config.json."""
        return {
            "slope": round(self.slope, 5),
            "intercept": round(self.intercept, 5),
            "ece": round(expected_error(self.after), 5),
            "ece_uncalibrated": round(expected_error(self.before), 5),
            "fitted": self.fitted,
            "measured": sum(b.count for b in self.after),
        }


@dataclass(frozen=True)
class CopyWeights:
    """log_odds: of a match of 1, 2, ... tokens. accuracy: how often it is right. The rest:
    tokens a step on answers that they were not fitted to, by the heads alone, with the default
    weights, and with these."""

    log_odds: tuple[float, ...]
    accuracy: tuple[float, ...]
    heads_alone: float
    by_default: float
    fitted: float

    def facts(self) -> dict[str, Any]:
        """`scorer.copying` of config.json, but for where the answers are from."""
        lengths = ("heads_alone", "by_default", "fitted")
        by_match = {LOG_ODDS: list(self.log_odds), ACCURACY: list(self.accuracy)}
        return by_match | {n: round(getattr(self, n), 3) for n in lengths}


@dataclass(frozen=True)
class Calibration:
    """places; what cutting drafts by them would do to the answers that they were not fitted to;
    what copies count; and facts about all answers."""

    places: tuple[Place, ...]
    cuts: tuple[Cut, ...]
    copying: CopyWeights
    facts: dict[str, Any]

    def content(self) -> dict[str, Any]:
        """`scorer.confidence` of config.json."""
        return self.facts | {"places": [place.facts() for place in self.places]}

    def bins(self) -> list[dict[str, Any]]:
        """The reliability diagram as numbers, place by place."""
        return [
            {"before": [asdict(b) for b in p.before], "after": [asdict(b) for b in p.after]}
            for p in self.places
        ]


def calibrate_confidence(
    folder: Path, dataset: Path, most_tokens: int, held_out: int | None = None
) -> Calibration:
    """Fit the confidence of a folder's scored drafts.

    Greedy answers alone are used where there are any: they are what a greedy draft is judged by.
    Lines are fitted to every other answer and measured on the rest.

    Args:
        dataset: answers with kept rows. most_tokens: of them.
        held_out: how many of them a training held out, which alone are used; None where the heads
            were trained on none.

    Raises:
        LMTPError: no heads with a scorer, no kept rows, rows of another model, or too few answers.
    """
    checkpoint = read_checkpoint(folder)
    if checkpoint.scorer is None:
        raise refuse(
            str(folder),
            FIELD,
            found="heads without a scorer",
            expected="a scorer, whose confidence is calibrated and stored with it",
            remedy="add one first: vllm-lmtp scorer build, or scorer add",
        )
    config, _ = read_folder(folder)
    end = config.get("eos_token_id")
    answers = read_answers(dataset, end if isinstance(end, int) else -1)
    if held_out is not None:
        _, answers = split_held_out(answers, held_out, lambda answer: answer.asked)
    greedy = [answer for answer in answers if answer.temperature == 0]
    chosen = spread(greedy if len(greedy) > 1 else answers, most_tokens, least=2)
    check_answers(checkpoint, dataset, chosen)
    drafts = drafted(checkpoint, chosen)
    measured = drafts[1::2]
    places = tuple(map(_place, observe(drafts[::2]), observe(measured)))
    lines = Confidence([(place.slope, place.intercept) for place in places], len(places))
    facts = {
        "source": _name(dataset),
        "answers": len(chosen),
        "tokens": sum(len(answer.answer) for answer in chosen),
        "greedy": bool(greedy),
    }
    copies = observed_copies(checkpoint, chosen, LONGEST)
    log_odds, lengths = fitted_or_default(copies[::2], copies[1::2])
    cuts = tuple(cut_at(measured, lines, least) for least in LEAST)
    shares = accuracy(copies[::2], log_odds)
    return Calibration(places, cuts, CopyWeights(log_odds, shares, *lengths), facts)


def write_calibration(
    folder: Path, output: Path, found: Calibration, overwrite: bool = False
) -> Written:
    """Write a copy of a folder whose scorer states the calibration.

    Raises:
        LMTPError: the output is there or cannot be written.
    """
    config, weights = read_folder(folder)
    stated = {key: value for key, value in found.content().items() if key != "places"}
    return write_folder(
        output,
        {name: weights.entry(name) for name in weights.tensors},
        config
        | moved_target(config, folder, output)
        | {
            FIELD: config[FIELD]
            | {CONFIDENCE: found.content(), COPYING: found.facts | found.copying.facts()}
        },
        tool="scorer calibrate",
        inputs=[folder],
        facts=stated,
        overwrite=overwrite,
    )


def _place(fitted: Observed, measured: Observed) -> Place:
    slope, intercept = fit_line(fitted.odds, fitted.right)
    before = torch.sigmoid(measured.odds)
    after = torch.sigmoid(slope * measured.odds + intercept)
    return Place(
        slope,
        intercept,
        len(fitted.odds),
        tuple(reliability(before, measured.right)),
        tuple(reliability(after, measured.right)),
    )


def _name(dataset: Path) -> str:
    """Of the run that made a data set, as far as its folder tells."""
    folder = dataset.resolve()
    return folder.parent.name if folder.name == DATASET else folder.name
