"""`vllm-lmtp scorer`: give heads a scorer, a counted table or a trained term, and calibrate it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_lmtp.cli import sweep
from vllm_lmtp.cli.output import (
    above_zero_argument,
    add_json_flag,
    positive_argument,
    print_json,
    print_table,
    stdout_to_stderr,
)
from vllm_lmtp.cli.written import print_written

if TYPE_CHECKING:
    from torch import Tensor

SIZE, WEIGHT, PSEUDO_COUNTS = 64, 0.8, 5.0
TOKENS = 100_000


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `scorer` and its words."""
    parser = subparsers.add_parser("scorer", help="give heads a scorer", description=__doc__)
    words = parser.add_subparsers(title="words", metavar="WORD", required=True)
    _add_word(words)
    _shrink_word(words)
    _calibrate_word(words)
    sweep.add_word(words)
    build = words.add_parser("build", help="count one and write it into a copy of the heads")
    build.add_argument("checkpoint", metavar="CKPT", help="stage-1 or heads-only folder, or an id")
    source = build.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", type=Path, metavar="FILE", help="count on this text")
    source.add_argument(
        "--dataset", type=Path, metavar="DIR", help="count on the answers that distill wrote"
    )
    build.add_argument(
        "--tokenizer", metavar="MODEL", help="with --text: of this model (default: CKPT's own)"
    )
    build.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="the folder to write"
    )
    build.add_argument(
        "--size",
        type=positive_argument,
        default=SIZE,
        metavar="K",
        help=f"successors kept for each token (default {SIZE})",
    )
    build.add_argument(
        "--weight",
        type=above_zero_argument,
        default=WEIGHT,
        help=f"of the ratios (default {WEIGHT})",
    )
    build.add_argument(
        "--pseudo-counts",
        type=above_zero_argument,
        default=PSEUDO_COUNTS,
        metavar="A",
        help=f"of the unigram, which tame rare pairs (default {PSEUDO_COUNTS:g})",
    )
    build.add_argument(
        "--overwrite", action="store_true", help="replace DIR where it holds a model already"
    )
    add_json_flag(build)
    build.set_defaults(run=_build, parser=build)


def _add_word(words: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    add = words.add_parser("add", help="write the scorer of another folder into a copy of heads")
    add.add_argument("checkpoint", metavar="CKPT", help="stage-1 or heads-only folder, or an id")
    add.add_argument(
        "--from", dest="donor", required=True, metavar="DIR", help="heads that have the scorer"
    )
    add.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="the folder to write"
    )
    add.add_argument(
        "--overwrite", action="store_true", help="replace DIR where it holds a model already"
    )
    add_json_flag(add)
    add.set_defaults(run=_add, parser=add)


def _shrink_word(words: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    shrink = words.add_parser("shrink", help="write a copy of heads whose term has a lower rank")
    shrink.add_argument("checkpoint", metavar="CKPT", help="stage-1 or heads-only folder, or an id")
    shrink.add_argument(
        "--rank", type=positive_argument, required=True, metavar="R", help="of the new Markov term"
    )
    shrink.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="the folder to write"
    )
    shrink.add_argument(
        "--overwrite", action="store_true", help="replace DIR where it holds a model already"
    )
    add_json_flag(shrink)
    shrink.set_defaults(run=_shrink, parser=shrink)


def _calibrate_word(words: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    calibrate = words.add_parser(
        "calibrate", help="fit the confidence of scored drafts, into a copy of the heads"
    )
    calibrate.add_argument(
        "checkpoint", metavar="CKPT", help="stage-1 or heads-only folder with a scorer, or an id"
    )
    calibrate.add_argument(
        "--dataset",
        type=Path,
        required=True,
        metavar="DIR",
        help="answers that distill wrote with keep_rows, held out from training",
    )
    calibrate.add_argument(
        "--tokens",
        type=positive_argument,
        default=TOKENS,
        metavar="N",
        help=f"tokens of answers at most (default {TOKENS})",
    )
    calibrate.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="the folder to write"
    )
    calibrate.add_argument("--plot", type=Path, metavar="PNG", help="draw the reliability diagram")
    calibrate.add_argument(
        "--overwrite", action="store_true", help="replace DIR where it holds a model already"
    )
    add_json_flag(calibrate)
    calibrate.set_defaults(run=_calibrate, parser=calibrate)


def _calibrate(args: argparse.Namespace) -> int:
    """Calibrate.

    Raises:
        LMTPError: heads or dataset cannot be read or do not fit together, or the output or the
            picture cannot be written.
    """
    with stdout_to_stderr():
        from vllm_lmtp.formats.files import fetch
        from vllm_lmtp.tools.scorers.confidence import calibrate_confidence, write_calibration
        from vllm_lmtp.tools.scorers.reliability_plot import check_drawable, draw

        if args.plot is not None:
            check_drawable(args.plot)
        folder = fetch(args.checkpoint)
        found = calibrate_confidence(folder, args.dataset, args.tokens)
        written = write_calibration(folder, args.output, found, args.overwrite)
        if args.plot is not None:
            draw(found, args.plot)
    places, cuts = found.content()["places"], [asdict(cut) for cut in found.cuts]
    if args.json:
        print_json(written.report() | {"places": places, "cuts": cuts, "bins": found.bins()})
        return 0
    rows = [[str(number), *map(str, place.values())] for number, place in enumerate(places)]
    print_table(rows, ("place", *places[0]), "Confidence = sigmoid(slope * log-odds + intercept)")
    rows = [[f"{value:.3f}" for value in cut.values()] for cut in cuts]
    print_table(rows, tuple(cuts[0]), "Drafts cut by lmtp_min_confidence (least)")
    print_written(written, as_json=False)
    return 0


def _add(args: argparse.Namespace) -> int:
    """Add the scorer.

    Raises:
        LMTPError: a folder cannot be read, or the two do not fit together.
    """
    with stdout_to_stderr():
        from vllm_lmtp.formats.files import fetch
        from vllm_lmtp.tools.scorers.scorer import add_scorer

        written = add_scorer(
            fetch(args.checkpoint), fetch(args.donor), args.output, overwrite=args.overwrite
        )
    print_written(written, args.json)
    return 0


def _shrink(args: argparse.Namespace) -> int:
    """Shrink the term.

    Raises:
        LMTPError: a folder without such a term, or the output cannot be written.
    """
    with stdout_to_stderr():
        from vllm_lmtp.formats.files import fetch
        from vllm_lmtp.tools.scorers.low_rank import shrink_term

        folder = fetch(args.checkpoint)
        written = shrink_term(folder, args.output, args.rank, overwrite=args.overwrite)
    print_written(written, args.json)
    return 0


def _build(args: argparse.Namespace) -> int:
    """Build the table.

    Raises:
        LMTPError: heads, text or dataset cannot be read, or the output cannot be written.
    """
    if args.tokenizer is not None and args.text is None:
        args.parser.error("--tokenizer goes with --text")
    with stdout_to_stderr():
        from vllm_lmtp.formats.files import fetch
        from vllm_lmtp.tools.scorers.scorer import build_table

        folder = fetch(args.checkpoint)
        source, passages = text_or_answers(args, folder)
        written = build_table(
            folder,
            args.output,
            passages,
            size=args.size,
            weight=args.weight,
            pseudo_counts=args.pseudo_counts,
            source=source.resolve().name,
            overwrite=args.overwrite,
        )
    print_written(written, args.json)
    return 0


def text_or_answers(args: argparse.Namespace, folder: Path) -> tuple[Path, Iterator[Tensor]]:
    """What to count on, and its passages.

    Raises:
        LMTPError: it cannot be read, at the latest when the passages are taken.
    """
    from vllm_lmtp.formats.files import fetch
    from vllm_lmtp.tools.scorers.scorer import passages_of_dataset, passages_of_text

    if args.text is None:
        return args.dataset, passages_of_dataset(args.dataset)
    model = folder if args.tokenizer is None else fetch(args.tokenizer)
    return args.text, passages_of_text(args.text, model)
