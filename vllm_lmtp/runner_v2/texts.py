"""The requests' own tokens as Model Runner V2 has them: on the device, by slot."""

from __future__ import annotations

from typing import Any

import torch
from vllm.logger import init_logger
from vllm.triton_utils import HAS_TRITON
from vllm.v1.worker.gpu.buffer_utils import StagedWriteTensor

from vllm_lmtp.method.copying import Copied, copied, newest_first

logger = init_logger("vllm.lmtp")


class SlotTexts:
    """`copying.Texts` of all slots.

    Args:
        req_states: vLLM's state of all requests, none of which has come yet.
        device: where drafts are made. vLLM keeps tokens in the host's memory, mapped into a GPU's:
            too slow to read whole texts at every step. There they move to the GPU's own.
        asked: whether drafts copy at all; else the tokens stay where they are.
    """

    def __init__(self, req_states: Any, device: torch.device, asked: bool = True) -> None:
        self.req_states = req_states
        self.kernels = device.type != "cpu" and HAS_TRITON
        if asked and device.type != "cpu":
            shape = req_states.max_num_reqs, req_states.max_model_len
            req_states.all_token_ids = StagedWriteTensor(shape, torch.int32, device)
            logger.info("L-MTP: %.1f MB on the device for texts to copy from", self.num_bytes / 1e6)

    @property
    def num_bytes(self) -> int:
        """Bytes that the texts take where they are."""
        tokens = self.req_states.all_token_ids.gpu
        return int(tokens.numel() * tokens.element_size())

    def copied(self, slots: torch.Tensor, places: int, longest: int) -> Copied:
        """As `Texts.copied`; slots beyond those of requests say anything."""
        table, total_len = self.req_states.all_token_ids.gpu, self.req_states.total_len.gpu
        if self.kernels:
            from vllm_lmtp.worker.kernels.copying import copied_by_slot

            return copied_by_slot(table, total_len, slots, places, longest)
        held = slots.clamp(max=self.req_states.max_num_reqs - 1)
        return copied(newest_first(table[held], total_len[held]), places, longest)
