"""`vllm-lmtp scorer sweep`: which table serves some heads best, on answers that are new to them."""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_lmtp.cli.scorer.texts import text_or_answers
from vllm_lmtp.cli.shared.output import (
    above_zero_argument,
    add_json_flag,
    positive_argument,
    print_progress,
    stdout_to_stderr,
)
from vllm_lmtp.cli.shared.results import print_result, write_result

if TYPE_CHECKING:
    from torch import Tensor

    from vllm_lmtp.eval.offline.beam import Beam
    from vllm_lmtp.eval.offline.sweep import Tally
    from vllm_lmtp.formats.checkpoint import HeadsCheckpoint
    from vllm_lmtp.tools.scorers.successors import Pairs
    from vllm_lmtp.training.data.kept_rows import Answer

SIZES = (8, 16, 64, 256)
WEIGHTS = (0.4, 0.6, 0.8, 1.0, 1.2)
PSEUDO_COUNTS = (1.0, 5.0, 20.0)
TOKENS = 15_000


def add_word(words: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the word `sweep`."""
    sweep = words.add_parser("sweep", help="find the table that serves some heads best")
    _add_answers(sweep)
    _add_tables(sweep)
    sweep.add_argument("--seed", type=int, default=0, help="of the order of answers (default 0)")
    sweep.add_argument(
        "--threads", type=positive_argument, default=1, metavar="N", help="default 1"
    )
    sweep.add_argument(
        "--output", type=Path, metavar="DIR", help="write sweep.json, .md and .png there"
    )
    add_json_flag(sweep)
    sweep.set_defaults(run=_run, parser=sweep)


def _add_answers(sweep: argparse.ArgumentParser) -> None:
    """What is counted, and what is drafted."""
    sweep.add_argument("checkpoint", metavar="CKPT", help="stage-1 or heads-only folder, or an id")
    source = sweep.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", type=Path, metavar="FILE", help="count on this text")
    source.add_argument(
        "--dataset", type=Path, metavar="DIR", help="count on the answers that distill wrote"
    )
    sweep.add_argument(
        "--tokenizer", metavar="MODEL", help="with --text: of this model (default: CKPT's own)"
    )
    sweep.add_argument(
        "--held-out",
        required=True,
        metavar="N|DIR",
        help="draft on N answers of --dataset, those that training with held_out: N leaves out, "
        "which are then not counted; or on those of another folder. They need kept rows",
    )
    sweep.add_argument(
        "--leave-out",
        type=positive_argument,
        metavar="N",
        help="with a folder as --held-out: those N answers of --dataset are not counted either",
    )
    sweep.add_argument(
        "--tokens",
        type=positive_argument,
        default=TOKENS,
        metavar="N",
        help=f"tokens of held-out answers at most (default {TOKENS})",
    )


def _add_tables(sweep: argparse.ArgumentParser) -> None:
    """What is tried."""
    for name, defaults, kind in (
        ("sizes", SIZES, positive_argument),
        ("weights", WEIGHTS, above_zero_argument),
        ("pseudo-counts", PSEUDO_COUNTS, above_zero_argument),
    ):
        shown = " ".join(f"{value:g}" for value in defaults)
        sweep.add_argument(
            f"--{name}",
            type=kind,
            nargs="+",
            default=defaults,
            metavar="X",
            help=f"one or several (default {shown})",
        )
    sweep.add_argument(
        "--counted",
        type=positive_argument,
        nargs="+",
        default=[None],
        metavar="N",
        help="count on the first N tokens only, of answers in random order (default: all)",
    )
    sweep.add_argument(
        "--refresh",
        action="store_true",
        help="try each table also as one that counts every answer once it was drafted",
    )
    sweep.add_argument(
        "--beams",
        type=_beam,
        nargs="+",
        default=[],
        metavar="WxK",
        help="search drafts too, W kept and K tokens a place, by their probability, or with "
        "`:length` by the length to be expected",
    )


def _run(args: argparse.Namespace) -> int:
    """Sweep.

    Raises:
        LMTPError: heads, text, dataset or held-out answers cannot be read or do not fit together,
            or the results cannot be written.
    """
    if args.text is None and args.tokenizer is not None:
        args.parser.error("--tokenizer goes with --text")
    if args.text is not None and args.held_out.isdigit():
        args.parser.error("--held-out N goes with --dataset; with --text give a folder")
    if args.leave_out is not None and (args.text is not None or args.held_out.isdigit()):
        args.parser.error("--leave-out goes with --dataset and a folder as --held-out")
    with stdout_to_stderr():
        import torch

        from vllm_lmtp.eval.offline.sweep import candidates, summary, sweep, tables
        from vllm_lmtp.eval.pages import report
        from vllm_lmtp.eval.provenance import provenance
        from vllm_lmtp.formats.checkpoint import read_checkpoint
        from vllm_lmtp.formats.files import fetch

        torch.set_num_threads(args.threads)
        if args.output is not None:
            report.check_output(args.output)
        folder = fetch(args.checkpoint)
        checkpoint = read_checkpoint(folder)
        held, passages = _answers(args, folder)
        held = _chosen(args, checkpoint, held)
        counts = _counts(args, checkpoint, passages)
        wanted = tables(
            args.sizes,
            args.weights,
            args.pseudo_counts,
            args.counted,
            (False, True) if args.refresh else (False,),
        )
        found = sweep(
            checkpoint, counts, held, candidates(checkpoint, wanted, args.beams), print_progress
        )
        result = {
            "kind": "sweep",
            "provenance": provenance(args.words, args.seed),
            "heads": folder.absolute().name,
            "text": {
                "source": (args.text or args.dataset).absolute().name,
                "tokens": sum(map(len, passages)),
            },
            "held_out": _held_facts(args, held, found),
            **summary(found),
        }
        write_result(result, args)
    print_result(result, args)
    return 0


def _answers(args: argparse.Namespace, folder: Path) -> tuple[list[Answer], list[Tensor]]:
    """Answers to draft on, and the passages to count on, in the order in which they are counted."""
    import torch

    from vllm_lmtp.formats.files import read_folder
    from vllm_lmtp.training.data.kept_rows import read_answers
    from vllm_lmtp.training.data.records import split_held_out

    end = read_folder(folder)[0].get("eos_token_id")
    end = end if isinstance(end, int) else -1
    left_out = int(args.held_out) if args.held_out.isdigit() else args.leave_out
    if left_out is None:
        held = read_answers(Path(args.held_out), end)
        passages = list(text_or_answers(args, folder)[1])
    else:
        answers = read_answers(args.dataset, end)
        train, held = split_held_out(answers, left_out, lambda answer: answer.asked)
        passages = [torch.tensor(answer.tokens) for answer in train]
        if args.leave_out is not None:
            held = read_answers(Path(args.held_out), end)
    random.Random(args.seed).shuffle(passages)
    return held, passages


def _chosen(
    args: argparse.Namespace, checkpoint: HeadsCheckpoint, held: list[Answer]
) -> list[Answer]:
    """The held-out answers that are drafted: greedy ones where there are any, so many as wanted."""
    from vllm_lmtp.training.data.held_answers import check_answers, spread

    greedy = [answer for answer in held if answer.temperature == 0]
    chosen = spread(greedy or held, args.tokens)
    where = args.dataset if args.held_out.isdigit() else Path(args.held_out)
    check_answers(checkpoint, where, chosen)
    return chosen


def _counts(
    args: argparse.Namespace, checkpoint: HeadsCheckpoint, passages: list[Tensor]
) -> dict[int | None, Pairs]:
    """What is counted, by the number of tokens.

    Raises:
        LMTPError: fewer tokens than are to be counted, tokens of another vocabulary, or none.
    """
    from vllm_lmtp.errors import refuse
    from vllm_lmtp.eval.offline.sweep import first_tokens
    from vllm_lmtp.tools.scorers.scorer import counted

    source, have = (args.text or args.dataset).absolute().name, sum(map(len, passages))
    most = max((n for n in args.counted if n is not None), default=0)
    if most > have:
        raise refuse(
            source,
            "--counted",
            found=f"{most:,} tokens asked for",
            expected=f"at most {have:,}, as many as there are",
            remedy="ask for fewer, or leave --counted out to count all",
        )
    return {
        n: counted(first_tokens(passages, n), checkpoint.vocab_size, source) for n in args.counted
    }


def _held_facts(args: argparse.Namespace, held: list[Answer], found: list[Tally]) -> dict[str, Any]:
    inside = args.held_out.isdigit()
    temperatures = sorted({answer.temperature for answer in held})
    return {
        "source": (args.dataset if inside else Path(args.held_out)).absolute().name,
        "answers": len(held),
        "positions": sum(found[0].positions),
        "temperatures": temperatures,
        "greedy": temperatures == [0],
    }


def _beam(word: str) -> Beam:
    from vllm_lmtp.eval.offline.beam import parse_beam

    beam = parse_beam(word)
    if beam is None:
        raise argparse.ArgumentTypeError(f"{word!r} is not like 4x8, 4x8:product or 4x8:length")
    return beam
