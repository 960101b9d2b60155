"""`vllm-lmtp demo`: the same prompts with and without leap heads, side by side."""

from __future__ import annotations

import argparse
import warnings

from vllm_lmtp.checkpoints.subject import Subject, subject_of
from vllm_lmtp.cli.shared.arguments import add_dtype_argument
from vllm_lmtp.cli.shared.output import (
    add_json_flag,
    positive_argument,
    print_json,
    print_progress,
    stdout_to_stderr,
    stride_argument,
)
from vllm_lmtp.eval.engines.engine import prepare_environment


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `demo`."""
    parser = subparsers.add_parser(
        "demo", help="compare plain decoding and L-MTP on this machine", description=__doc__
    )
    add = parser.add_argument
    add(
        "--model",
        metavar="PATH",
        help="stage-1 folder or id; the embedded one when left out; smollm2: a chat model, "
        "gemma3-270m: a base model without heads of its own, both fetched once",
    )
    add("--heads", metavar="PATH", help="heads-only folder or id, where --model has no heads")
    add("--stride", type=stride_argument, metavar="K", help="instead of the stated skip_token")
    add("--chat", action="store_true", help="answer what you type, both ways, until Ctrl-D")
    add("--prompts", type=positive_argument, metavar="N", help="how many prompts; default: all")
    add(
        "--max-tokens",
        type=positive_argument,
        metavar="N",
        help="of an answer; default: 96; a fetched model: 128; of several streams, from half of it "
        "to one and a half times",
    )
    add("--temperature", type=float, default=0.0, metavar="T", help="default: 0, greedy")
    add_dtype_argument(parser)
    add(
        "--rounds",
        type=positive_argument,
        metavar="N",
        help="timed rounds; default: 5; a fetched model: 1",
    )
    add(
        "--threads",
        type=positive_argument,
        metavar="N",
        help="CPU threads; default: 1, as the embedded model is too small to gain from more; "
        "a fetched model: all",
    )
    add_json_flag(parser)
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo. Returns 1 when greedy float32 outputs differ, which must never happen.

    Raises:
        LMTPError: the checkpoint cannot be served, or fetched.
    """
    if args.chat and args.json:
        args.parser.error("--chat is for people; leave --json out")
    with stdout_to_stderr():
        subject = subject_of(args.model, args.heads)
    prepare_environment(args.threads or subject.threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _talk(args, subject) if args.chat else _compare(args, subject)


def _compare(args: argparse.Namespace, subject: Subject) -> int:
    with stdout_to_stderr():
        from vllm_lmtp.eval.measurements.compare import compare

        result = compare(
            subject,
            print_progress,
            stride=args.stride,
            num_prompts=min(args.prompts or len(subject.prompts), len(subject.prompts)),
            max_tokens=args.max_tokens or subject.max_tokens,
            temperature=args.temperature,
            dtype=args.dtype,
            rounds=args.rounds or subject.rounds,
        )
    if args.json:
        print_json(result)
    else:
        from vllm_lmtp.cli.demo.report import print_report

        print_report(result, subject.shown)
    return 1 if result["must_be_identical"] and not result["identical"] else 0


def _talk(args: argparse.Namespace, subject: Subject) -> int:
    max_tokens = args.max_tokens or subject.max_tokens
    with stdout_to_stderr():
        from vllm_lmtp.checkpoints.subject import chat_tokenizer
        from vllm_lmtp.cli.demo.chat import CONTEXT, chat
        from vllm_lmtp.eval.engines.engine import Run
        from vllm_lmtp.eval.measurements.compare import Pair, context

        tokenizer = chat_tokenizer(subject.model)
        length = context(subject.model, CONTEXT + max_tokens)
        pair = Pair(
            subject,
            print_progress,
            max_tokens,
            args.temperature,
            args.stride,
            dtype=args.dtype,
            max_num_seqs=1,
            max_model_len=length,
        )

    def answers(prompt: list[int]) -> tuple[Run, Run]:
        with stdout_to_stderr():
            return pair.generate([prompt])

    try:
        chat(tokenizer, answers, length - max_tokens)
    finally:
        with stdout_to_stderr():
            pair.close()
    return 0
