"""Products with int8 matrices on CPUs that multiply int8 (AVX512-VNNI), by vLLM's oneDNN kernel.

For few rows a product costs what reading its matrix does, and a quarter of float32's bytes stays in
the caches where that does not. The kernel rounds rows to int8 as well, which alone would cost a
tenth of the heads' best tokens. So each row goes in twice: rounded, and what the rounding left,
with a scale of its own. Both read the matrix once, and their sum is off by 1 part in 5,000.
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
    """rows . (values * scales)^T.

    Args:
        values: [S, H] int8. scales: [S] float32.
    """

    def __init__(self, values: torch.Tensor, scales: torch.Tensor) -> None:
        from vllm import _custom_ops as ops

        self._ops = ops
        self._outputs = len(values)
        self._kept = values.contiguous(), scales.float().contiguous()  # the kernel reads them
        self._handler = ops.create_onednn_scaled_mm(
            self._kept[0].t(), self._kept[1], torch.float32, dynamic_quant=True, use_azp=False
        )

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[N, H] floating point -> [N, S] float32; a row that is not finite spoils itself alone."""
        whole, scale = _rounded(rows.float())
        rest, fine = _rounded(rows.float() - whole * scale)
        parts = torch.cat([whole, rest]).to(torch.int8)
        found = torch.empty(len(parts), self._outputs)
        scales = torch.cat([scale, fine])
        self._ops.onednn_scaled_mm(self._handler, parts, found, scales, None, None, None)
        return found[: len(rows)].add_(found[len(rows) :])


def _rounded(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers [N, H] within int8 and scales [N, 1] of them, all float32."""
    scale = rows.abs().amax(dim=1, keepdim=True) / LARGEST
    return (rows / scale.clamp_min(torch.finfo(torch.float32).tiny)).round_(), scale
