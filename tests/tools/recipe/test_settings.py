"""How many prompts a model writes before it answers them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_lmtp.tools.recipe.settings import OWN, Subject, own_prompts


def subject(
    parameters: float, *, chat: bool = False, gpu: bool = False, workers: int = 1
) -> Subject:
    return Subject(
        "model", Path("model"), 262144, 640, 32768, int(parameters),
        chat=chat, system=chat, gpu=gpu, cores=workers, workers=workers,
    )  # fmt: skip


def test_a_base_model_on_one_core_does_not_write_openings_for_half_the_hour() -> None:
    """Gemma 3 270M makes 130 tokens a second there."""
    count = own_prompts(subject(268e6), 60)
    assert count >= 256
    assert count * 24 / 130 < 2 * OWN * 3600


@pytest.mark.parametrize("chat", [False, True])
def test_more_time_and_more_engines_mean_more_prompts(chat: bool) -> None:
    large = subject(268e6, chat=chat)
    assert own_prompts(large, 60) < own_prompts(subject(268e6, chat=chat, workers=2), 60)
    assert own_prompts(large, 60) < own_prompts(large, 120)


def test_what_a_small_model_or_a_gpu_writes_is_not_bounded_so() -> None:
    assert own_prompts(subject(1e6), 20) == 20 * 128
    assert own_prompts(subject(8e9, chat=True, gpu=True), 30) == 30 * 512


def test_there_are_some_and_never_too_many() -> None:
    assert own_prompts(subject(8e9), 1) == 256
    assert own_prompts(subject(8e9, gpu=True), 600) == 32768
