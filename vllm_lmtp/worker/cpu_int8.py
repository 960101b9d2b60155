"""Products with int8 matrices on CPUs that multiply int8 (AVX512-VNNI), by vLLM's oneDNN kernel.

For few rows a product costs what reading its matrix does, and int8 has a quarter of float32's bytes
(docs/results/cost.md, int8 on CPUs). The kernel takes rows in int8 as well, and rounding them alone
would cost a tenth of SmolLM2's best tokens. So each row goes in twice: rounded, and what the
rounding left, with a scale of its own. Both read the matrix once.
"""

from __future__ import annotations

import torch
from vllm.platforms import current_platform

from vllm_lmtp.formats.int8 import LARGEST

KERNEL = "create_onednn_scaled_mm_handler"


def can_multiply() -> bool:
    """Whether this process computes on a CPU with such instructions, and vLLM has the kernel."""
    # private, but torch itself offers no other way to ask
    if not (current_platform.is_cpu() and torch.cpu._is_vnni_supported()):
        return False
    from vllm import _custom_ops  # noqa: F401  (loads the kernels)

    return hasattr(torch.ops._C, KERNEL)


class Int8Product:
    """rows . (values * scales)^T, from a packed copy of the matrix.

    Args:
        values: [S, H] int8, which may be freed. scales: [S] float32, which the kernel reads.

    Attributes:
        num_bytes: of the packed matrix and its scales.
    """

    def __init__(self, values: torch.Tensor, scales: torch.Tensor) -> None:
        from vllm import _custom_ops as ops

        self._ops = ops
        self._outputs = len(values)
        self._scales = scales.float().contiguous()
        self._rows_have_none = torch.ones(1, dtype=torch.float32)
        self._handler = ops.create_onednn_scaled_mm(
            values.contiguous().t(), self._scales, torch.float32, dynamic_quant=False, use_azp=False
        )
        self.num_bytes = values.numel() + 4 * len(self._scales)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[N, H] floating point -> [N, S] float32; a row that is not finite spoils itself alone."""
        rows = rows.float()
        whole, scale = _rounded(rows)
        rest, fine = _rounded(rows - whole * scale)
        parts = torch.cat([whole, rest]).to(torch.int8)
        found = torch.empty(len(parts), self._outputs, dtype=torch.float32)
        self._ops.onednn_scaled_mm(
            self._handler, parts, found, self._rows_have_none, None, None, None
        )
        return found[: len(rows)].mul_(scale).addcmul_(found[len(rows) :], fine)


def _rounded(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers [N, H] within int8 and scales [N, 1] of them, all float32."""
    scale = rows.abs().amax(dim=1, keepdim=True) / LARGEST
    return (rows / scale.clamp_min(torch.finfo(torch.float32).tiny)).round_(), scale
