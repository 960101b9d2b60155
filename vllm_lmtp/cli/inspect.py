"""`vllm-lmtp inspect`: what a checkpoint's heads are, read from its headers alone."""

from __future__ import annotations

import argparse
from typing import Any

from vllm_lmtp.cli.shared.output import add_json_flag, print_json, print_table, stride_argument


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `inspect`."""
    parser = subparsers.add_parser(
        "inspect", help="show what a checkpoint holds", description=__doc__
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="a folder or a Hugging Face id")
    parser.add_argument(
        "--stride", type=stride_argument, metavar="K", help="instead of config.json's skip_token"
    )
    add_json_flag(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show the checkpoint.

    Raises:
        LMTPError: it cannot be read, or could not be served.
    """
    from vllm_lmtp.formats.contents import describe

    facts = describe(args.checkpoint, args.stride)
    if args.json:
        print_json(facts)
    else:
        _print(facts)
    return 0


def _print(facts: dict[str, Any]) -> None:
    sizes = facts["bytes_bf16"]
    rows: list[tuple[str, object]] = [
        ("folder", facts["path"]),
        ("layout", facts["layout"]),
        ("model type", facts["model_type"]),
        ("heads", f"{facts['n_heads']}, {facts['num_layers']} residual block(s) each"),
        ("stride", f"{facts['stride']}, from {facts['stride_from']}"),
        ("drafts a step", f"{facts['max_drafts']} (offsets 2..{facts['max_drafts'] + 1})"),
        ("hidden size", facts["hidden_size"]),
        ("vocabulary", _vocabulary(facts)),
        ("output matrices", _outputs(facts)),
        ("scorer", facts["scorer"] or "none"),
        ("dtypes on disk", ", ".join(facts["dtypes"])),
        ("one head", f"{_megabytes(sizes['head'])} in bf16"),
        ("all heads", f"{_megabytes(sizes['heads'])} in bf16"),
    ]
    if sizes["backbone"] is not None:
        rows.append(
            (
                "backbone",
                f"{_megabytes(sizes['backbone'])} in bf16; "
                f"the heads are {facts['heads_to_backbone']:.0%} of it",
            )
        )
    print_table(rows, ())
    print_table(
        [(head["head"], head["offset"]) for head in facts["heads"]],
        ("head", "predicts t +"),
        "Heads, read at position t",
    )
    print_table(
        [(d["place"], d["offset"], d["head"], d["lag"]) for d in facts["drafts"]],
        ("place", "offset", "head", "lag"),
        "Draft, in order (lag: positions before the last finalised one)",
    )
    print_table(
        [(file["name"], _megabytes(file["bytes"]), file["tensors"]) for file in facts["files"]],
        ("file", "size", "tensors"),
    )


def _outputs(facts: dict[str, Any]) -> str:
    int8 = facts["int8_outputs"]
    if not int8:
        return "floating point"
    heads = "all" if len(int8) == facts["n_heads"] else ", ".join(map(str, int8))
    return f"int8 with one scale a row (heads: {heads})"


def _vocabulary(facts: dict[str, Any]) -> str:
    size, drafted = facts["vocab_size"], facts["draft_vocab_size"]
    return str(size) if drafted is None else f"{size}, of which the heads draft {drafted} tokens"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB"
