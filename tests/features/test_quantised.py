"""A quantised target that the heads of the full one draft for, in their own dtype."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from tests.engine.client import GPU, EngineError, EngineHost
from tests.engine.test_real import CHECKPOINT, OPENINGS, asked
from tests.features.made.quantised import quantise
from tests.features.operations import host as host  # pytest finds fixtures by name
from tests.support.random_models import succeed

Says = Callable[[str], None]
SERVED = {
    "compressed-tensors W8A8 int8, dynamic": "float32",
    "compressed-tensors W4A16": "bfloat16",
    "GPTQ, 4 bits": "bfloat16",
    "AWQ, 4 bits": "bfloat16",
}
"""The dtype that vLLM's CPU kernels compute each in: only the int8 ones have float32."""
WITHOUT_AVX512 = "'_C' object has no attribute 'cpu_gemm_wna16'"
"""What vLLM's CPU build stops with at 4 bits on a processor without AVX-512, drafts or not."""
REFUSED = "compressed-tensors W8A16"
WHY = "CPUWNA16LinearKernel cannot implement due to: Quant type (uint8b128) not supported"


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The embedded checkpoint as a plain model and as its heads alone."""
    root = tmp_path_factory.mktemp("apart")
    succeed("export", CHECKPOINT, root / "plain")
    succeed("convert", "--to", "heads", CHECKPOINT, root / "heads")
    return root / "plain", root / "heads"


def _spec(heads: Path) -> dict[str, str]:
    return {"method": "lmtp", "model": str(heads)}


def _feature(layout: str, *marks: pytest.MarkDecorator) -> object:
    return pytest.param(
        layout, id=layout, marks=[pytest.mark.feature("quantised targets", layout), *marks]
    )


@pytest.mark.parametrize(
    "layout",
    [_feature(layout, *([] if "int8" in layout else [pytest.mark.slow])) for layout in SERVED],
)
def test_tokens_are_those_of_the_quantised_target(
    host: EngineHost, apart: tuple[Path, Path], tmp_path: Path, layout: str, says: Says
) -> None:
    plain, heads = apart
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    prompts, greedy = asked(host, [tokenizer(text)["input_ids"] for text in OPENINGS])
    target, dtype = quantise(plain, tmp_path / "target", layout), SERVED[layout]
    if "int8" not in layout and not GPU and not torch.cpu._is_avx512_supported():
        for spec in (None, _spec(heads)):
            host.start(target, dtype=dtype, speculative_config=spec)
            with pytest.raises(EngineError, match=WITHOUT_AVX512):
                host.generate(prompts, greedy)
        says(
            f'vLLM stops on a processor without AVX-512, in plain decoding, too: "{WITHOUT_AVX512}"'
        )
        return
    replies = []
    for spec in (None, _spec(heads)):
        host.start(target, dtype=dtype, speculative_config=spec, max_num_batched_tokens=64)
        replies.append(host.generate(prompts, {**greedy, "logprobs": 1}))
    held = host.call("held")
    assert replies[1]["tokens"] == replies[0]["tokens"]
    assert held["heads"] == [dtype]
    assert held["layers"] != "UnquantizedLinearMethod"
    counters = replies[1]["counters"]
    accepted = counters["vllm:spec_decode_num_accepted_tokens"]
    length = 1 + accepted / counters["vllm:spec_decode_num_drafts"]
    assert length > 2, "the heads know the quantised target"
    says(f"tokens equal in {dtype}, in which the heads stay; acceptance length {length:.1f}")


@pytest.mark.feature("quantised targets", REFUSED)
def test_eight_bit_weights_alone(
    host: EngineHost, apart: tuple[Path, Path], tmp_path: Path, says: Says
) -> None:
    plain, heads = apart
    target = quantise(plain, tmp_path / "target", REFUSED)
    for spec in (None, _spec(heads)):
        with pytest.raises(EngineError) as refusal:
            host.start(target, dtype="bfloat16", speculative_config=spec)
        assert WHY in str(refusal.value), "vLLM has a CPU kernel now: it belongs in SERVED"
    says(f'vLLM refuses: "{WHY}"')
