"""Medusa heads (FasterDecoding's layout) as leap heads: all of them, or every k-th as a leap.

Medusa's head j, read at position t, predicts t + 2 + j: it is a leap head of stride 1. Head i of
stride k predicts t + 1 + k(i + 1), which is Medusa's head k(i + 1) - 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import LMTPError, Refusal, raise_refusals, refuse
from vllm_lmtp.formats.checkpoint import CONFIG_FILE, MAX_HEADS, MAX_STRIDE
from vllm_lmtp.formats.files import LICENCES, Entry, Weights, read_folder
from vllm_lmtp.formats.tensors import FLOAT_DTYPES
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.tools.folders.convert import head_fields
from vllm_lmtp.tools.folders.save import Written, write_folder

# With one residual block: Medusa's name of each part, and ours.
PARTS = {
    "0.linear.weight": "resblock.0.l_proj.weight",
    "0.linear.bias": "resblock.0.l_proj.bias",
    "1.weight": "lm_head.weight",
}
_TENSOR = re.compile(
    r"(?P<head>0|[1-9][0-9]?)\.(?P<part>0\.linear\.weight|0\.linear\.bias|1\.weight)"
)
KNOWN = "<i>.0.linear.weight, <i>.0.linear.bias and <i>.1.weight"


def from_medusa(medusa: Path, output: Path, *, every: int = 1, overwrite: bool = False) -> Written:
    """Write Medusa heads as a heads-only folder.

    Args:
        medusa: a folder with config.json (medusa_num_heads, medusa_num_layers) and safetensors.
        output: the folder to make.
        every: the stride k; every k-th head is taken, the (k-1)-th first.
        overwrite: replace the output.

    Raises:
        LMTPError: not such a folder, more than one residual block a head, fewer than `every`
            heads, or an output that is there or cannot be written.
    """
    config, weights = read_folder(medusa)
    n_medusa = _check_config(medusa / CONFIG_FILE, config)
    hidden_size, vocab_size = _check_tensors(medusa, weights, n_medusa)
    taken = range(every - 1, n_medusa, every)
    if not taken or every > MAX_STRIDE:
        raise refuse(
            str(medusa / CONFIG_FILE),
            "medusa_num_heads",
            found=f"{n_medusa} head(s), with --every {every}",
            expected=f"at least as many heads as the stride, which is at most {MAX_STRIDE}",
            remedy=f"give --every {min(n_medusa, MAX_STRIDE)} or less",
        )
    tensors: dict[str, Entry] = {
        f"heads.heads.{i}.{ours}": weights.entry(f"{j}.{theirs}")
        for i, j in enumerate(taken)
        for theirs, ours in PARTS.items()
    }
    schedule = LeapSchedule(len(taken), every)
    name = config.get("base_model_name_or_path")
    return write_folder(
        output,
        tensors,
        head_fields(schedule, 1, hidden_size, vocab_size)
        | ({"model_name": name} if isinstance(name, str) else {}),
        tool="convert --from-medusa",
        inputs=[medusa],
        facts={"heads": len(taken), "stride": every, "medusa_heads": list(taken)},
        overwrite=overwrite,
        beside=LICENCES,
    )


def _check_config(file: Path, config: Mapping[str, Any]) -> int:
    """The number of heads that a Medusa config states."""
    faults = []
    layers, count = config.get("medusa_num_layers", "no such key"), config.get("medusa_num_heads")
    if layers != 1 or isinstance(layers, bool):
        found, remedy = repr(layers), "heads with more blocks cannot be leap heads; train new ones"
        expected = "1, as leap heads have one residual block of their own"
        faults.append(Refusal(str(file), "medusa_num_layers", found, expected, remedy))
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_HEADS:
        found, remedy = repr(count), "restore the config that was saved with the heads"
        expected = f"an integer from 1 to {MAX_HEADS}"
        faults.append(Refusal(str(file), "medusa_num_heads", found, expected, remedy))
    raise_refusals(faults)
    assert isinstance(count, int)
    return count


def _check_tensors(folder: Path, weights: Weights, n_heads: int) -> tuple[int, int]:
    """(hidden_size, vocab_size) of Medusa heads whose tensors are all there and fit each other."""
    faults = []
    wanted = {f"{head}.{part}" for head in range(n_heads) for part in PARTS}
    for name in sorted(weights.tensors.keys() - wanted):
        found = "a head beyond medusa_num_heads" if _TENSOR.fullmatch(name) else "an unknown tensor"
        remedy = "correct medusa_num_heads, or give a folder of Medusa heads and nothing else"
        faults.append(Refusal(str(folder), name, found, KNOWN, remedy))
    for name in sorted(wanted - weights.tensors.keys()):
        remedy = "correct medusa_num_heads, or restore the missing tensor"
        faults.append(Refusal(str(folder), name, "no such tensor", KNOWN, remedy))
    raise_refusals(faults)
    first = weights.tensors["0.1.weight"]
    if len(first.shape) != 2 or 0 in first.shape:
        raise refuse(
            str(first.file),
            "0.1.weight",
            found=f"shape {list(first.shape)}",
            expected="an output matrix [vocabulary, hidden]",
            remedy="restore the file",
        )
    vocab_size, hidden_size = first.shape
    shapes = {
        "0.linear.weight": (hidden_size, hidden_size),
        "0.linear.bias": (hidden_size,),
        "1.weight": (vocab_size, hidden_size),
    }
    for name in sorted(wanted):
        info, shape = weights.tensors[name], shapes[name.split(".", 1)[1]]
        if info.shape != shape or info.dtype not in FLOAT_DTYPES:
            found = f"{info.dtype} {list(info.shape)}"
            expected = f"{' or '.join(FLOAT_DTYPES)} {list(shape)}"
            faults.append(Refusal(str(info.file), name, found, expected, "restore the tensor"))
    if faults:
        raise LMTPError(faults)
    return hidden_size, vocab_size
