"""`vllm-lmtp scorer calibrate`: fit the confidence of scored drafts and what copies count beside
them, into a copy of the heads.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from vllm_lmtp.cli.shared.output import (
    add_json_flag,
    positive_argument,
    print_json,
    print_table,
    stdout_to_stderr,
)
from vllm_lmtp.cli.shared.written import print_written

TOKENS = 100_000


def add_word(words: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the word `calibrate`."""
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
    calibrate.set_defaults(run=_run, parser=calibrate)


def _run(args: argparse.Namespace) -> int:
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
        numbers = {"places": places, "cuts": cuts, "bins": found.bins()}
        print_json(written.report() | numbers | {"copying": found.copying.facts()})
        return 0
    rows = [[str(number), *map(str, place.values())] for number, place in enumerate(places)]
    print_table(rows, ("place", *places[0]), "Confidence = sigmoid(slope * log-odds + intercept)")
    rows = [[f"{value:.3f}" for value in cut.values()] for cut in cuts]
    print_table(rows, tuple(cuts[0]), "Drafts cut by lmtp_min_confidence (least)")
    copies = found.copying
    print_table(
        [[f"{odds:.3f}" for odds in copies.log_odds]],
        [f"{n} matching" for n in range(1, len(copies.log_odds) + 1)],
        "Log-odds of what the text goes on with",
    )
    lengths = (copies.heads_alone, copies.by_default, copies.fitted)
    print_table(
        [[f"{length:.3f}" for length in lengths]],
        ("heads alone", "copying by default", "copying as fitted"),
        "Tokens a step",
    )
    print_written(written, as_json=False)
    return 0
