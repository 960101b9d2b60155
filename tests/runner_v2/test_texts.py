"""Where V2's texts are, and which way they are searched there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vllm_lmtp.runner_v2 import texts as module
from vllm_lmtp.runner_v2.texts import SlotTexts


def states(slots: int, width: int) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(0, 3, (slots, width), generator=generator, dtype=torch.int32)
    total_len = torch.full((slots,), width, dtype=torch.int32)
    return SimpleNamespace(
        max_num_reqs=slots,
        max_model_len=width,
        all_token_ids=SimpleNamespace(gpu=table),
        total_len=SimpleNamespace(gpu=total_len),
    )


def staged(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> SimpleNamespace:
    return SimpleNamespace(gpu=torch.empty(shape, dtype=dtype, device=device))


@pytest.mark.parametrize("has_triton", [False, True])
def test_the_kernel_is_for_devices_that_are_not_cpus(
    has_triton: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HAS_TRITON", has_triton)
    # A device without data stands in for a GPU: nothing is looked up here.
    monkeypatch.setattr(module, "StagedWriteTensor", staged)
    vllm = states(2, 8)
    assert SlotTexts(vllm, torch.device("meta")).kernels == has_triton
    assert vllm.all_token_ids.gpu.device.type == "meta"  # and no longer where vLLM had them
    assert not SlotTexts(states(2, 8), torch.device("cpu")).kernels


def test_a_padded_row_has_a_slot_beyond_those_of_requests() -> None:
    texts = SlotTexts(states(3, 20), torch.device("cpu"))
    both = texts.copied(torch.tensor([1, 3]), 4, 8)
    alone = texts.copied(torch.tensor([1]), 4, 8)
    assert both.tokens[0].tolist() == alone.tokens[0].tolist()
    assert both.tokens.shape == (2, 4)
