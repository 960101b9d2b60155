"""A picture in the prompt of a multimodal target: the heads draft for what is written of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tests.engine
from tests.engine.client import EngineHost
from tests.features.made.pictures import save_heads, save_pictures, save_target
from tests.features.operations import RUNNERS, start_host

MISSING = importlib.util.find_spec("torchvision") is None
"""There is no CPU build of it on the package index. vLLM only needs its name to be importable, and
transformers can process pictures with Pillow alone."""
STAND_IN = Path(tests.engine.__file__).parent / "no_vision"


@pytest.fixture(scope="module", params=RUNNERS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    log = tmp_path_factory.mktemp("logs") / "log"
    host = start_host(request.param, log, path=STAND_IN if MISSING else None)
    yield host
    host.close()


@pytest.mark.feature("multimodal", "Gemma 3 with a picture in the prompt")
def test_pictures(host: EngineHost, tmp_path: Path, says: Callable[[str], None]) -> None:
    target = save_target(tmp_path / "target")
    heads, pictures = save_heads(tmp_path / "heads", target), save_pictures(tmp_path)
    engine: dict[str, Any] = {"max_model_len": 256, "limit_mm_per_prompt": {"image": 1}}
    if MISSING:
        engine["mm_processor_kwargs"] = {"backend": "pil"}
    replies = []
    for spec in (None, {"method": "lmtp", "model": str(heads)}):
        host.start(target, speculative_config=spec, **engine)
        replies.append(
            host.call(
                "generate",
                prompts=["<start_of_image>Once upon a time"] * 2,
                images=pictures,
                params={"temperature": 0, "max_tokens": 30, "ignore_eos": True},
            )
        )
    plain, drafted = replies
    assert drafted["tokens"] == plain["tokens"]
    assert plain["tokens"][0] != plain["tokens"][1], "the pictures are seen"
    assert drafted["counters"]["vllm:spec_decode_num_accepted_tokens"] > 0
    without = ", torchvision stood in for and Pillow used" if MISSING else ""
    says(f"tokens equal{without}")
