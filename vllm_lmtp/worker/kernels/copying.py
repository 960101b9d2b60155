"""What each text's end goes on with, found where the texts lie: `method/copying.py` on a GPU.

The torch version turns every text round and compares it whole, at the width of the longest text
there may ever be, in many passes over memory. Here a text is read once, as far as it goes, in two
launches: each block of places finds the best match that ends in it, then one program a request
takes the best of its blocks and copies. Nothing is added up in an order that may change, so the
same texts give the same tokens always. Launches depend on shapes alone and nothing is read back,
so a CUDA graph can hold them.

A match is named by the place where it ends, counted from the text's first token: the larger, the
more recent. A key is (length, end) as one whole number, so that the largest key is the longest
match and of equals the most recent.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from vllm_lmtp.method.copying import Copied

NO_TOKEN = tl.constexpr(-1)
"""As `method/copying.py` has it; a constant of the kernels must be a `constexpr`."""
MATCHES_NOTHING = tl.constexpr(-2)

BLOCK = 1024
"""Places of a text that one program looks at: few enough that one request alone keeps a GPU busy,
enough that a batch of short texts under a long limit is not mostly programs with nothing to do."""


@triton.jit
def _text_of(tokens, total_len, slots, row, num_slots, width, row_stride):
    """Where a request's text begins, and how long it is: 0 for a slot that no request can have,
    as a padded row of a graph does, so that such a row costs nothing."""
    slot = tl.load(slots + row).to(tl.int64)  # a table may hold more than 2**31 tokens
    length = tl.load(total_len + slot, mask=slot < num_slots, other=0)
    return tokens + slot * row_stride, tl.minimum(length, width)


@triton.jit
def _block_best_kernel(
    tokens,
    total_len,
    slots,
    keys,
    num_slots,
    width,
    row_stride,
    num_blocks,
    LONGEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The key of the best match that ends in one block of one text."""
    row = tl.program_id(0)
    block = tl.program_id(1)
    text, length = _text_of(tokens, total_len, slots, row, num_slots, width, row_stride)
    newest = length - 1
    # No match ends at the newest token itself. A block beyond has nothing to say and says nothing:
    # the launch is as wide as the longest text there may be.
    if block * BLOCK < newest:
        ends = block * BLOCK + tl.arange(0, BLOCK)
        unbroken = ends < newest
        run = tl.zeros((BLOCK,), dtype=tl.int32)
        for back in range(LONGEST):
            token = tl.load(text + newest - back, mask=back <= newest, other=NO_TOKEN)
            token = tl.where(token == NO_TOKEN, MATCHES_NOTHING, token)
            # Most matches break at once, and what is broken is not read any further.
            earlier = tl.load(text + ends - back, mask=unbroken & (ends >= back), other=NO_TOKEN)
            unbroken = unbroken & (earlier == token)
            run += unbroken.to(tl.int32)
        best = tl.max((run.to(tl.int64) << 32) + ends, axis=0)
        tl.store(keys + row * num_blocks + block, best)


@triton.jit
def _continue_kernel(
    tokens,
    total_len,
    slots,
    keys,
    copied,
    lengths,
    num_slots,
    width,
    row_stride,
    num_blocks,
    places,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    PLACES: tl.constexpr,
):
    """The length of one text's best match, and the tokens that it goes on with."""
    row = tl.program_id(0)
    text, length = _text_of(tokens, total_len, slots, row, num_slots, width, row_stride)
    blocks = tl.arange(0, BLOCKS)
    # The keys of blocks beyond the text were never written.
    said = blocks * BLOCK < length - 1
    best = tl.max(tl.load(keys + row * num_blocks + blocks, mask=said, other=0), axis=0)
    tl.store(lengths + row, best >> 32)
    end = best.to(tl.int32)  # the key's lower half
    # Where nothing matches, the end is the one just before the newest token, or beyond it, or there
    # is no key at all: distance 1, as in torch.
    distance = tl.maximum(length - 1 - end, 1)
    place = tl.arange(0, PLACES)
    # A match that runs into the text's end goes on with its own copy, round and round.
    position = length - distance + place % distance
    wanted = place < places
    token = tl.load(text + position, mask=wanted & (position >= 0), other=NO_TOKEN)
    tl.store(copied + row * places + place, token.to(tl.int64), mask=wanted)


def copied_by_slot(
    tokens: torch.Tensor,
    total_len: torch.Tensor,
    slots: torch.Tensor,
    places: int,
    longest: int,
) -> Copied:
    """As `method.copying.copied` of the texts of some slots, turned round.

    Args:
        tokens: [S, L] int32, by slot, each text from its first token on, whatever may stand behind
            it; tokens of a row lie side by side.
        total_len: [S] int32, the length of each text, at most L.
        slots: [R] int64; one beyond S has no text. Both are contiguous.
        places: m. longest: n, at least 1 and below 128.
    """
    count, (num_slots, width) = len(slots), tokens.shape
    device = tokens.device
    found = Copied(
        torch.empty(count, places, dtype=torch.int64, device=device),
        torch.empty(count, dtype=torch.int64, device=device),
    )
    if count == 0:
        return found
    blocks = triton.cdiv(max(width - 1, 1), BLOCK)
    # Made anew as the results are: what is made while a CUDA graph is recorded is the graph's own,
    # so there is nothing to keep, and no largest R to know beforehand.
    keys = torch.empty(count, blocks, dtype=torch.int64, device=device)
    texts = tokens, total_len, slots, keys
    shape = num_slots, width, tokens.stride(0), blocks
    _block_best_kernel[(count, blocks)](*texts, *shape, LONGEST=longest, BLOCK=BLOCK, num_warps=4)
    _continue_kernel[(count,)](
        *texts,
        *found,
        *shape,
        places,
        BLOCK=BLOCK,
        BLOCKS=triton.next_power_of_2(blocks),
        PLACES=triton.next_power_of_2(max(places, 1)),
        num_warps=4,
    )
    return found
