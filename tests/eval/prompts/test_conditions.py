"""The same prompts under other conditions, each a group of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.random_models import EMBEDDED
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.eval.prompts.asking import Settings, encode_prompts
from vllm_lmtp.eval.prompts.conditions import under_conditions
from vllm_lmtp.eval.prompts.sets import load_set

SETTINGS = Settings(str(EMBEDDED), 16, "float32", 8, 0, "auto")


def test_longer_prompts_end_as_they_were() -> None:
    loaded = load_set("stories", limit=3)
    plain = encode_prompts(loaded, SETTINGS)
    found = under_conditions(loaded, plain, SETTINGS, [100, 400], None)
    assert found.facts["groups"] == {"as they are": 3, "100 tokens": 3, "400 tokens": 3}
    assert [len(a.tokens) for a in found.asked[3:]] == [100] * 3 + [400] * 3
    for short, long in zip(plain.asked, found.asked[6:], strict=True):
        assert long.tokens[-len(short.tokens) :] == short.tokens
    assert found.context >= 400 + 16


def test_a_length_beyond_the_model_is_refused() -> None:
    loaded = load_set("stories", limit=1)
    with pytest.raises(LMTPError, match="--contexts"):
        under_conditions(loaded, encode_prompts(loaded, SETTINGS), SETTINGS, [600], None)


def test_a_system_prompt_needs_a_template() -> None:
    loaded = load_set("stories", limit=1)
    with pytest.raises(LMTPError, match="chat_template"):
        under_conditions(loaded, encode_prompts(loaded, SETTINGS), SETTINGS, [], "Be brief.")


def test_another_system_prompt(tmp_path: Path) -> None:
    for file in EMBEDDED.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}"
    )
    settings = Settings(str(tmp_path), 16, "float32", 8, 0, "auto")
    loaded = load_set("stories", limit=2)
    plain = encode_prompts(loaded, settings)
    found = under_conditions(loaded, plain, settings, [], "Be a cat.")
    assert found.facts["groups"] == {"as they are": 2, "another system prompt": 2}
    assert found.facts["system_prompt"] == "Be a cat."
    for short, long in zip(plain.asked, found.asked[2:], strict=True):
        assert len(long.tokens) > len(short.tokens)
    assert found.context >= max(len(asked.tokens) for asked in found.asked) + 16

    # The very prompts that were short enough, whatever the system's turn adds.
    all_of_them = load_set("stories")
    least = min(len(asked.tokens) for asked in encode_prompts(all_of_them, settings).asked)
    few = encode_prompts(all_of_them, settings, longest=least)
    found = under_conditions(all_of_them, few, settings, [], "Be a cat. " * 9)
    numbers = [asked.prompt.number for asked in found.asked]
    assert numbers == 2 * [asked.prompt.number for asked in few.asked]
    assert len(few.asked) < len(all_of_them.prompts)
