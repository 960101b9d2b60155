"""The requests' own tokens as Model Runner V1 has them: on the host, in the order of the batch."""

from __future__ import annotations

from typing import Any

import torch

from vllm_lmtp.method.copying import NO_TOKEN, Copied, copied, newest_first


class BatchTexts:
    """`copying.Texts` of the batch that was taken last.

    Args:
        device: where drafts are made.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def take(self, input_batch: Any, num_reqs: int) -> None:
        """Look at a step's batch, whose sampled tokens are in their places already."""
        lengths = torch.from_numpy(input_batch.num_tokens_no_spec[:num_reqs])
        width = int(lengths.max())
        tokens = torch.from_numpy(input_batch.token_ids_cpu[:num_reqs, :width])
        given = torch.from_numpy(input_batch.is_token_ids[:num_reqs, :width])
        # Beyond a text's end the flags are of another request; `newest_first` looks at neither.
        self.tokens = tokens if given.all() else tokens.masked_fill(~given, NO_TOKEN)
        self.lengths = lengths

    def copied(self, slots: torch.Tensor, places: int, longest: int) -> Copied:
        """As `Texts.copied`; the slots are those of the batch, in its order."""
        turned = newest_first(self.tokens, self.lengths).to(self.device, non_blocking=True)
        return copied(turned, places, longest)
