"""`vllm-lmtp calibrate`: the stride that a checkpoint's heads show, and config.json corrected."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_lmtp.cli.shared.output import add_json_flag, print_json, print_table, stdout_to_stderr

if TYPE_CHECKING:
    from vllm_lmtp.tools.fit.calibrate import Calibration


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `calibrate`."""
    parser = subparsers.add_parser(
        "calibrate", help="measure which offsets the heads predict", description=__doc__
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="stage-1 or heads-only folder, or an id")
    parser.add_argument(
        "--target", metavar="MODEL", help="the model the heads draft for; needed for heads only"
    )
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="measure on this text, not on the target's own"
    )
    parser.add_argument(
        "--write", action="store_true", help="correct skip_token in CKPT's config.json"
    )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the table as a heat map")
    add_json_flag(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure. Returns 1 when config.json ends up with another stride than the heads show, or
    the heads show none.

    Raises:
        LMTPError: nothing could be measured, or the picture or config.json cannot be written.
    """
    with stdout_to_stderr():
        from vllm_lmtp.tools.fit.calibrate import calibrate, check_writable, correct
        from vllm_lmtp.tools.fit.heatmap import check_drawable, draw

        if args.plot is not None:
            check_drawable(args.plot)
        if args.write:
            check_writable(args.checkpoint)
        found = calibrate(args.checkpoint, args.target, args.text)
        if args.plot is not None:
            draw(found, args.plot)
        written = args.write and correct(found)
    if args.json:
        print_json(found.report() | {"written": written})
    else:
        _print(found, written)
    return 0 if found.is_right or written else 1


def _print(found: Calibration, written: bool) -> None:
    from vllm_lmtp.tools.fit.calibrate import rows

    cells = []
    for name, rates in rows(found):
        best = max(rates)
        cells.append([name, *(f"{100 * r:.1f}{'*' if r == best else ' '}" for r in rates)])
    offsets = [f"t+{offset}" for offset in range(1, len(found.lm_head.rates) + 1)]
    title = "Agreement of each head's top token with the token at each offset"
    print_table(cells, ("%", *offsets), f"{title} ({found.lm_head.num_rows} positions; * peak)")
    print(found.words)
    if written:
        print(f"config.json now states skip_token {found.finding.stride}; it stated {found.stated}")
    elif found.finding.stride is not None and not found.is_right:
        print("--write corrects config.json")
