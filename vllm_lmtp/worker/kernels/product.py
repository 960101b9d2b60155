"""Products of rows with an output matrix [S, H], the matrix read once as it is stored.

At small batch a head costs the bytes of its matrix, so nothing else may move: `top_of_rows` finds
the best entry of each row without writing a logit, in two passes (a best for each block of the
vocabulary, then the best of those); `logits_of_rows` writes them, for a scorer that adds to them.
Matrices are floating point, or int8 or float8 with one scale a row.

Sums are float32 and are never rounded to the rows' dtype, so that near ties come out as in exact
arithmetic more often than where torch rounds its logits. Otherwise the best is `torch.max`'s of
the logits: of equal ones the first, and the first NaN before everything else.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

NO_ID = tl.constexpr(2**31 - 1)
"""An id above every real one."""

SHAPES = {
    16: (32, 256),
    32: (64, 256),
    64: (128, 128),
    128: (128, 64),
}
"""BLOCK_VOCAB and BLOCK_HIDDEN by BLOCK_ROWS, of which a tensor core takes 16 at the least. The
fastest of some hundred on an H100 (docs/gpu.md) that fit the shared memory of other GPUs too."""


@triton.jit
def _block_logits(
    rows,
    matrix,
    scales,
    row_ids,
    token_ids,
    num_rows,
    num_tokens,
    hidden,
    row_stride,
    row_step,
    matrix_stride,
    matrix_step,
    HAS_SCALES: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_VOCAB: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
):
    """[BLOCK_ROWS, BLOCK_VOCAB] float32 products; those beyond either end are 0."""
    here = row_ids < num_rows
    there = token_ids < num_tokens
    total = tl.zeros((BLOCK_ROWS, BLOCK_VOCAB), dtype=tl.float32)
    row_start = rows + row_ids.to(tl.int64)[:, None] * row_stride
    # A matrix may hold more than 2**31 entries.
    matrix_start = matrix + token_ids.to(tl.int64)[None, :] * matrix_stride
    for start in range(0, hidden, BLOCK_HIDDEN):
        places = start + tl.arange(0, BLOCK_HIDDEN)
        inside = places < hidden
        x = tl.load(
            row_start + places[None, :] * row_step, mask=here[:, None] & inside[None, :], other=0.0
        )
        w = tl.load(
            matrix_start + places[:, None] * matrix_step,
            mask=inside[:, None] & there[None, :],
            other=0.0,
        )
        if w.dtype == tl.int8:
            w = w.to(tl.float32)  # the interpreter has no int8 to bfloat16
        if EXACT:
            w = w.to(x.dtype).to(tl.float32)
            total += tl.dot(x.to(tl.float32), w, input_precision="ieee")
        else:
            total = tl.dot(x, w.to(x.dtype), total)
    if HAS_SCALES:
        total *= tl.load(scales + token_ids, mask=there, other=0.0).to(tl.float32)[None, :]
    return total


@triton.jit
def _best(values, ids, valid):
    """Best value, its id and the log-sum-exp along axis 1, over `valid` entries.

    ids: of `values`, increasing along axis 1. A NaN wins, and makes the log-sum-exp NaN.
    """
    is_nan = values != values
    nan_id = tl.min(tl.where(is_nan & valid, ids, NO_ID), axis=1)
    numbers = tl.where(valid & (is_nan == 0), values, float("-inf"))
    best = tl.max(numbers, axis=1)
    alike = valid & (is_nan == 0) & (numbers == best[:, None])
    best_id = tl.min(tl.where(alike, ids, NO_ID), axis=1)
    # Infinite logits must not meet themselves in a difference.
    base = tl.where((best == float("inf")) | (best == float("-inf")), 0.0, best)
    mass = tl.sum(tl.where(valid, tl.exp(values - base[:, None]), 0.0), axis=1)
    found_nan = nan_id != NO_ID
    return (
        tl.where(found_nan, float("nan"), best),
        tl.where(found_nan, nan_id, best_id),
        tl.where(found_nan, float("nan"), base + tl.log(mass)),
    )


@triton.jit
def _block_best_kernel(
    rows,
    matrix,
    scales,
    values,
    ids,
    masses,
    num_rows,
    num_tokens,
    hidden,
    row_stride,
    row_step,
    matrix_stride,
    matrix_step,
    num_blocks,
    HAS_SCALES: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_VOCAB: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
):
    block = tl.program_id(1)
    row_ids = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    token_ids = block * BLOCK_VOCAB + tl.arange(0, BLOCK_VOCAB)
    logits = _block_logits(
        rows,
        matrix,
        scales,
        row_ids,
        token_ids,
        num_rows,
        num_tokens,
        hidden,
        row_stride,
        row_step,
        matrix_stride,
        matrix_step,
        HAS_SCALES,
        EXACT,
        BLOCK_ROWS,
        BLOCK_VOCAB,
        BLOCK_HIDDEN,
    )
    valid = (token_ids < num_tokens)[None, :] & (row_ids >= 0)[:, None]
    shape = tl.zeros((BLOCK_ROWS, BLOCK_VOCAB), dtype=tl.int32)
    best, best_id, mass = _best(logits, token_ids[None, :] + shape, valid)
    target = row_ids * num_blocks + block
    here = row_ids < num_rows
    tl.store(values + target, best, mask=here)
    tl.store(ids + target, best_id, mask=here)
    tl.store(masses + target, mass, mask=here)


@triton.jit
def _reduce_kernel(
    block_values,
    block_ids,
    block_masses,
    values,
    ids,
    masses,
    num_blocks,
    BLOCK: tl.constexpr,
):
    """The best of one row's blocks; blocks are in order of their ids."""
    row = tl.program_id(0)
    places = tl.arange(0, BLOCK)
    inside = places < num_blocks
    best = tl.load(block_values + row * num_blocks + places, mask=inside, other=float("-inf"))
    at = tl.load(block_ids + row * num_blocks + places, mask=inside, other=NO_ID)
    mass = tl.load(block_masses + row * num_blocks + places, mask=inside, other=float("-inf"))
    value, best_id, _unused = _best(best[None, :], at[None, :], inside[None, :])
    _top, _at, total = _best(mass[None, :], at[None, :], inside[None, :])
    one = tl.arange(0, 1)
    tl.store(values + row + one, value)
    tl.store(ids + row + one, best_id.to(tl.int64))
    tl.store(masses + row + one, total)


@triton.jit
def _logits_kernel(
    rows,
    matrix,
    scales,
    logits,
    num_rows,
    num_tokens,
    hidden,
    row_stride,
    row_step,
    matrix_stride,
    matrix_step,
    logits_stride,
    HAS_SCALES: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_VOCAB: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
):
    row_ids = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    token_ids = tl.program_id(1) * BLOCK_VOCAB + tl.arange(0, BLOCK_VOCAB)
    block = _block_logits(
        rows,
        matrix,
        scales,
        row_ids,
        token_ids,
        num_rows,
        num_tokens,
        hidden,
        row_stride,
        row_step,
        matrix_stride,
        matrix_step,
        HAS_SCALES,
        EXACT,
        BLOCK_ROWS,
        BLOCK_VOCAB,
        BLOCK_HIDDEN,
    )
    target = logits + row_ids.to(tl.int64)[:, None] * logits_stride + token_ids[None, :]
    tl.store(target, block, mask=(row_ids < num_rows)[:, None] & (token_ids < num_tokens)[None, :])


def top_of_rows(
    rows: torch.Tensor,
    matrix: torch.Tensor,
    scales: torch.Tensor | None = None,
    num_tokens: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best entry of each row of `rows @ matrix.T`, whose entries are never written.

    Args:
        rows: [N, H] float32, bfloat16 or float16, with any strides.
        matrix: [S, H] in the rows' dtype, or int8 or float8_e4m3fn with `scales`; any strides.
        scales: [S] floating point, what each row of `matrix` counts.
        num_tokens: rows of `matrix` that count; those after it are padding. All if left out.

    Returns:
        [N] float32 best values, [N] int64 ids, [N] float32 log-sum-exps of all the row's entries;
        -inf, a large id and -inf if no row of the matrix counts.
    """
    count, _ = rows.shape
    tokens = len(matrix) if num_tokens is None else num_tokens
    shape = _shape(rows, scales)
    blocks = triton.cdiv(max(tokens, 1), shape["BLOCK_VOCAB"])
    values = torch.empty(2, count * blocks, dtype=torch.float32, device=rows.device)
    ids = torch.empty(count * blocks, dtype=torch.int32, device=rows.device)
    best = torch.empty(2, count, dtype=torch.float32, device=rows.device)
    best_ids = torch.empty(count, dtype=torch.int64, device=rows.device)
    if count == 0:
        return best[0], best_ids, best[1]
    # Programs that read the same part of the matrix run side by side, so that it is read once.
    _block_best_kernel[(triton.cdiv(count, shape["BLOCK_ROWS"]), blocks)](
        rows,
        matrix,
        matrix if scales is None else scales,
        values[0],
        ids,
        values[1],
        count,
        tokens,
        rows.shape[1],
        *rows.stride(),
        *matrix.stride(),
        blocks,
        **shape,
    )
    _reduce_kernel[(count,)](
        values[0],
        ids,
        values[1],
        best[0],
        best_ids,
        best[1],
        blocks,
        BLOCK=triton.next_power_of_2(blocks),
    )
    return best[0], best_ids, best[1]


def logits_of_rows(
    rows: torch.Tensor,
    matrix: torch.Tensor,
    scales: torch.Tensor | None = None,
    num_tokens: int | None = None,
) -> torch.Tensor:
    """`rows @ matrix.T` [N, S] float32; arguments as of `top_of_rows`; padding has -inf."""
    count, _ = rows.shape
    tokens = len(matrix) if num_tokens is None else num_tokens
    logits = torch.empty(count, len(matrix), dtype=torch.float32, device=rows.device)
    logits[:, tokens:] = float("-inf")
    if count and tokens:
        shape = _shape(rows, scales)
        row_blocks = triton.cdiv(count, shape["BLOCK_ROWS"])
        _logits_kernel[(row_blocks, triton.cdiv(tokens, shape["BLOCK_VOCAB"]))](
            rows,
            matrix,
            matrix if scales is None else scales,
            logits,
            count,
            tokens,
            rows.shape[1],
            *rows.stride(),
            *matrix.stride(),
            logits.stride(0),
            **shape,
        )
    return logits


def _shape(rows: torch.Tensor, scales: torch.Tensor | None) -> dict[str, int | bool]:
    """How the kernels cut up a product."""
    # Triton's interpreter cannot multiply bfloat16 (3.9.0).
    exact = rows.dtype == torch.float32 or triton.knobs.runtime.interpret
    block_rows = min(max(SHAPES), max(min(SHAPES), triton.next_power_of_2(len(rows))))
    vocab, hidden = SHAPES[block_rows]
    return {
        "HAS_SCALES": scales is not None,
        "EXACT": exact,
        "BLOCK_ROWS": block_rows,
        "BLOCK_VOCAB": vocab,
        # float32 takes twice the shared memory.
        "BLOCK_HIDDEN": hidden // 4 if exact else hidden,
        "num_warps": 4,
        "num_stages": 3,
    }
