"""Stage 1 and a LoRA adapter in, one servable stage-1 folder out: backbone and heads merged."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_lmtp.errors import Refusal, raise_refusals, refuse
from vllm_lmtp.formats.checkpoint import CONFIG_FILE
from vllm_lmtp.formats.files import Entry, Weights, is_tied
from vllm_lmtp.formats.tensors import HEADS_PREFIX
from vllm_lmtp.formats.unmerged import ADAPTER_FILE
from vllm_lmtp.tools.folders.adapter import Adapter, read_adapter
from vllm_lmtp.tools.folders.export import OUTPUT_MATRIX, read_stage1
from vllm_lmtp.tools.folders.save import Written, write_folder

if TYPE_CHECKING:
    from torch import Tensor


def merge(stage1: Path, adapter_folder: Path, output: Path, *, overwrite: bool = False) -> Written:
    """Write `stage1` with W + (alpha / r) B A in place of each W that the adapter adapts.

    The sum is made in float32 and stored in the file's dtype; all other tensors and config.json
    are copied as they are.

    Raises:
        LMTPError: no stage-1 folder, an adapter that does not fit it or is not plain LoRA, a sum
            that is not finite, or an output that is there or cannot be written.
    """
    config, weights, checkpoint = read_stage1(stage1)
    if "quantization_config" in config:
        raise refuse(
            str(stage1 / CONFIG_FILE),
            "quantization_config",
            found="a quantised backbone",
            expected="weights in floating point",
            remedy="merge into the stage-1 folder first and quantise after that",
        )
    adapter = read_adapter(adapter_folder, weights)
    _check_shared(adapter, stage1, checkpoint.num_layers)
    tensors = {name: weights.entry(name) for name in weights.tensors}
    for module in adapter.pairs:
        name = f"{module}.weight"
        read = partial(merged, weights, adapter, module)
        tensors[name] = Entry(tensors[name].dtype, tensors[name].shape, read)
    in_heads = sum(module.startswith(HEADS_PREFIX) for module in adapter.pairs)
    return write_folder(
        output,
        tensors,
        config,
        tool="merge",
        inputs=[stage1, adapter_folder],
        facts={
            "rank": adapter.rank,
            "scale": adapter.scale,
            "adapted_in_backbone": len(adapter.pairs) - in_heads,
            "adapted_in_heads": in_heads,
        },
        overwrite=overwrite,
    )


def merged(weights: Weights, adapter: Adapter, module: str) -> Tensor:
    """The module's weight with its adapter, [out, in] in the file's dtype.

    Raises:
        LMTPError: a value is not finite.
    """
    weight = weights.read(f"{module}.weight")
    total = (weight.float() + adapter.delta(module)).to(weight.dtype)
    if total.isfinite().all():
        return total
    raise refuse(
        str(adapter.folder / ADAPTER_FILE),
        module,
        found="infinite or undefined values in the merged weight",
        expected="finite values",
        remedy="give an adapter whose training did not diverge",
    )


def _check_shared(adapter: Adapter, stage1: Path, num_layers: int) -> None:
    """Weights that stand in two places of the model cannot be changed in one."""
    file = str(adapter.folder / ADAPTER_FILE)
    faults = []
    heads = [module for module in adapter.pairs if module.startswith(HEADS_PREFIX)]
    if num_layers > 1 and heads:
        found = f"an adapter of one of {num_layers} blocks with the same weights"
        expected = "head_num_layers 1, which is all that the reference trains"
        remedy = "apply it in memory"
        faults.append(Refusal(file, heads[0], found, expected, remedy))
    module = OUTPUT_MATRIX.removesuffix(".weight")
    if module in adapter.pairs and is_tied(stage1):
        found, expected = "an adapter of a matrix that is tied to the embeddings", "one without"
        remedy = "train without lm_head among target_modules"
        faults.append(Refusal(file, module, found, expected, remedy))
    raise_refusals(faults)
