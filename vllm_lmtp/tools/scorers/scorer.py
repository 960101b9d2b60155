"""Heads in, the same heads with a scorer out: a successor table, or another folder's scorer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint, read_checkpoint
from vllm_lmtp.formats.files import Entry, read_folder
from vllm_lmtp.formats.read import draft_vocabulary
from vllm_lmtp.formats.scorer_tensors import FIELD, IDS, RATIOS, TABLE, tensor_name
from vllm_lmtp.formats.speculators import moved_target
from vllm_lmtp.formats.tensors import SCORER_PREFIX
from vllm_lmtp.formats.tokenizer import has_tokenizer
from vllm_lmtp.tools.folders.save import Written, write_folder
from vllm_lmtp.tools.scorers.successors import Pairs, best_successors, no_pairs

if TYPE_CHECKING:
    from torch import Tensor


def build_table(
    folder: Path,
    output: Path,
    passages: Iterator[Tensor],
    *,
    size: int,
    weight: float,
    pseudo_counts: float,
    source: str,
    overwrite: bool = False,
) -> Written:
    """Write a copy of a folder of heads with a successor table in place of any scorer it has.

    Args:
        passages: [L] int64 token ids each. source: what they are, for the provenance.
        size: successors kept for each token. weight, pseudo_counts: docs/scorer.md.

    Raises:
        LMTPError: no sound folder of heads, tokens outside its vocabulary, nothing to count, or an
            output that is there or cannot be written.
    """
    checkpoint = read_checkpoint(folder, stride=1)  # config.json's is kept as it is
    config, weights = read_folder(folder)
    table = best_successors(
        counted(passages, checkpoint.vocab_size, source),
        draft_vocabulary(checkpoint),
        min(size, checkpoint.output_rows),
        pseudo_counts,
    )
    facts = {
        "kind": TABLE,
        "weight": weight,
        "pseudo_counts": pseudo_counts,
        "size": table.ids.shape[1],
        "pairs": table.pairs,
        "source": source,
    }
    shape = tuple(table.ids.shape)
    tensors = {
        name: weights.entry(name) for name in weights.tensors if not name.startswith(SCORER_PREFIX)
    }
    tensors[tensor_name(TABLE, IDS)] = Entry("I32", shape, lambda: table.ids)
    tensors[tensor_name(TABLE, RATIOS)] = Entry("F16", shape, lambda: table.ratios)
    return write_folder(
        output,
        tensors,
        config | moved_target(config, folder, output) | {FIELD: facts},
        tool="scorer build",
        inputs=[folder],
        facts=facts,
        overwrite=overwrite,
    )


def counted(passages: Iterator[Tensor], vocab_size: int, source: str) -> Pairs:
    """The transitions of some passages.

    Args:
        passages: [L] int64 token ids each. source: what they are.

    Raises:
        LMTPError: tokens outside the vocabulary, or nothing to count.
    """
    pairs = no_pairs(vocab_size).and_those_of(_within(passages, vocab_size, source))
    if not pairs.total:
        raise refuse(
            source,
            "text",
            found="no two tokens in a row",
            expected="text to count successors in",
            remedy="give a longer text",
        )
    return pairs


def add_scorer(folder: Path, donor: Path, output: Path, *, overwrite: bool = False) -> Written:
    """Write a copy of a folder of heads with the scorer of another folder in place of its own.

    Args:
        donor: heads of the same sizes and draft vocabulary, with a scorer, such as `run: heads`
            writes for a term that it trained on these heads.

    Raises:
        LMTPError: no sound folders of heads, no scorer, other heads, or an output that is there or
            cannot be written.
    """
    ours, theirs = (read_checkpoint(f, stride=1) for f in (folder, donor))
    config, weights = read_folder(folder)
    donor_config, donor_weights = read_folder(donor)
    if theirs.scorer is None:
        raise refuse(
            str(donor),
            FIELD,
            found="heads without a scorer",
            expected="the scorer that is to be added",
            remedy="train one (run: heads, with a term), or count one: vllm-lmtp scorer build",
        )
    mine, other = _kind_of_heads(ours), _kind_of_heads(theirs)
    if mine != other or not _same(draft_vocabulary(ours), draft_vocabulary(theirs)):
        raise refuse(
            str(donor),
            "heads",
            found=f"a scorer of heads with {other}, or of another draft vocabulary",
            expected=f"one of heads like those of {folder}: {mine}",
            remedy="train the scorer on these heads (init)",
        )
    tensors = {n: weights.entry(n) for n in weights.tensors if not n.startswith(SCORER_PREFIX)}
    tensors |= {
        n: donor_weights.entry(n) for n in donor_weights.tensors if n.startswith(SCORER_PREFIX)
    }
    return write_folder(
        output,
        tensors,
        config | moved_target(config, folder, output) | {FIELD: donor_config[FIELD]},
        tool="scorer add",
        inputs=[folder, donor],
        facts=dict(donor_config[FIELD]),
        overwrite=overwrite,
    )


def passages_of_text(file: Path, model: Path) -> Iterator[Tensor]:
    """Token ids of a text file, one passage, by the tokenizer in a model's folder.

    Raises:
        LMTPError: no tokenizer, or the file cannot be read.
    """
    import torch

    if not has_tokenizer(str(model)):
        raise refuse(
            str(model),
            "tokenizer",
            found="none",
            expected="tokenizer.json, to read a text with",
            remedy="give the target's folder as --tokenizer",
        )
    from vllm_lmtp.training.data.tokenizer import load_tokenizer

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(
            str(file),
            "text",
            found=f"unreadable ({error})",
            expected="a text file in UTF-8",
            remedy="check the path given as --text",
        ) from error
    yield torch.tensor(load_tokenizer(model)(text)["input_ids"], dtype=torch.int64)


def passages_of_dataset(folder: Path) -> Iterator[Tensor]:
    """Token ids of the answers in a `datasets` folder, as `vllm-lmtp distill` writes it: each from
    the last token of its prompt to the one that ended it, where that was kept.

    Raises:
        LMTPError: no such folder, or no column of tokens.
    """
    import torch
    from datasets import load_from_disk

    try:
        data: Any = load_from_disk(str(folder))
        columns = data.column_names
    except (OSError, ValueError) as error:
        raise _no_dataset(folder, str(error)) from error
    if not isinstance(columns, list) or "tokens" not in columns:
        raise _no_dataset(folder, f"columns {columns}")
    for record in data:
        start = max(record.get("prompt_tokens", 1) - 1, 0)
        end = record.get("end_token") if record.get("ended") else None
        tokens = record["tokens"][start:] + ([] if end is None else [end])
        yield torch.tensor(tokens, dtype=torch.int64)


def _kind_of_heads(checkpoint: HeadsCheckpoint) -> str:
    return f"{checkpoint.schedule.n_heads} head(s) over {checkpoint.output_rows} tokens"


def _same(left: Tensor | None, right: Tensor | None) -> bool:
    import torch

    if left is None or right is None:
        return left is right
    return torch.equal(left, right)


def _no_dataset(folder: Path, found: str) -> Exception:
    return refuse(
        str(folder),
        "--dataset",
        found=found,
        expected="a datasets folder with a column 'tokens'",
        remedy="give the `dataset` folder that vllm-lmtp distill wrote",
    )


def _within(passages: Iterator[Tensor], vocab_size: int, source: str) -> Iterator[Tensor]:
    for tokens in passages:
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
            raise refuse(
                source,
                "tokens",
                found=f"ids from {int(tokens.min())} to {int(tokens.max())}",
                expected=f"ids in 0..{vocab_size - 1}, the vocabulary of the heads' target",
                remedy="give text or a tokenizer of the model that the heads were trained on",
            )
        yield tokens
