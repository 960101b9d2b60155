"""A Markov term in, the same term of a lower rank out: each place of a draft reads less memory.

The term is a matrix, scores of next tokens by preceding one, kept as two factors. The best matrix
of a lower rank comes from its singular values (Eckart and Young, 1936), which two small factors
give without ever writing the matrix down.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.formats.files import Entry, Weights, read_folder
from vllm_lmtp.formats.int8 import quantise_rows
from vllm_lmtp.formats.scorer_tensors import CONFIDENCE, EMBED, FIELD, MARKOV, OUTPUT, tensor_name
from vllm_lmtp.formats.speculators import moved_target
from vllm_lmtp.formats.tensors import INT8, SCORER_PREFIX
from vllm_lmtp.tools.folders.save import Written, write_folder
from vllm_lmtp.worker.scorer_weights import term_matrix

if TYPE_CHECKING:
    from torch import Tensor


def factors_of_rank(embed: Tensor, output: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The factors of the nearest term of a lower rank.

    Nearest by squares over all pairs of tokens, after what a softmax cannot see is taken out: the
    mean over the next tokens.

    Args:
        embed: float32 [R, r], of each preceding token. output: float32 [D, r], of each next token,
            or [N, D, r] of each head. rank: from 1 to r.

    Returns:
        float32 [R, rank], [D, rank] or [N, D, rank], and the share of the squares that is kept.
    """
    import torch

    rows = (output - output.mean(dim=-2, keepdim=True)).flatten(0, -2)
    q_embed, r_embed = torch.linalg.qr(embed)
    q_rows, r_rows = torch.linalg.qr(rows)
    left, values, right = torch.linalg.svd(r_embed @ r_rows.T)
    root = values[:rank].sqrt()
    kept = values[:rank].square().sum() / values.square().sum()
    lower = (q_rows @ right[:rank].T) * root
    return (q_embed @ left[:, :rank]) * root, lower.view(*output.shape[:-1], rank), float(kept)


def shrink_term(folder: Path, output: Path, rank: int, *, overwrite: bool = False) -> Written:
    """Write a copy of a folder of heads whose Markov term has the rank `rank`.

    The factors keep their dtypes. A calibration of the confidence was that of the other term, and
    is left out.

    Raises:
        LMTPError: no sound folder of heads, no Markov term, none of a higher rank, or an output
            that is there or cannot be written.
    """
    import torch

    checkpoint = read_checkpoint(folder, stride=1)  # config.json's is kept as it is
    config, weights = read_folder(folder)
    if checkpoint.scorer is None or checkpoint.scorer.kind != MARKOV:
        raise refuse(
            str(folder),
            f"{FIELD}.kind",
            found="no scorer" if checkpoint.scorer is None else checkpoint.scorer.kind,
            expected=f"{MARKOV}, the only kind that is two factors",
            remedy="train one (run: heads, with markov); for a table: scorer build --size",
        )
    factors = [term_matrix(checkpoint, part, torch.float32) for part in (EMBED, OUTPUT)]
    if rank >= (had := factors[0].shape[-1]):
        raise refuse(
            str(folder),
            "--rank",
            found=str(rank),
            expected=f"less than {had}, the rank of the term",
            remedy="name a lower rank",
        )
    *lower, kept = factors_of_rank(factors[0], factors[1], rank)
    facts = {name: value for name, value in config[FIELD].items() if name != CONFIDENCE}
    facts |= {"rank": rank, "rank_trained": facts.get("rank_trained", had), "kept": round(kept, 4)}
    tensors = {n: weights.entry(n) for n in weights.tensors if not n.startswith(SCORER_PREFIX)}
    for part, factor in zip((EMBED, OUTPUT), lower, strict=True):
        tensors |= _entries(weights, tensor_name(MARKOV, part), factor)
    return write_folder(
        output,
        tensors,
        config | moved_target(config, folder, output) | {FIELD: facts},
        tool="scorer shrink",
        inputs=[folder],
        facts=facts,
        overwrite=overwrite,
    )


def _entries(weights: Weights, name: str, factor: Tensor) -> dict[str, Entry]:
    """A factor in the place of a tensor, of its dtype, with its scales where that is int8."""
    shape, dtype = tuple(factor.shape), weights.tensors[name].dtype
    if dtype == INT8:
        rounded, scale = quantise_rows(factor)
        return {
            name: Entry(INT8, shape, lambda: rounded),
            f"{name}_scale": Entry("F32", shape[:-1], lambda: scale),
        }
    return {name: Entry(dtype, shape, lambda: factor.to(weights.read(name).dtype))}
