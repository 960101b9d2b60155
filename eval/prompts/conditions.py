"""The same prompts under other conditions: longer contexts, another system prompt.

Heads are trained on some lengths and one way of asking, so acceptance is told for each condition
as it is for each group of a set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vllm_lmtp.eval.prompts import contexts
from vllm_lmtp.eval.prompts.asking import Asked, Questions, Settings, encode_prompts
from vllm_lmtp.eval.prompts.sets import Loaded

AS_THEY_ARE, ANOTHER_SYSTEM = "as they are", "another system prompt"


def under_conditions(
    loaded: Loaded,
    questions: Questions,
    settings: Settings,
    lengths: Sequence[int],
    system: str | None,
) -> Questions:
    """Every prompt once for each condition, which takes the place of its group.

    Args:
        loaded: the set. questions: its prompts as they are.
        lengths: tokens of every prompt, made of other prompts of the set put before it.
        system: what stands in the system's turn.

    Raises:
        LMTPError: the model has no room for a length, or no chat template for a system prompt.
    """
    asked = _named(questions.asked, AS_THEY_ARE)
    for length in lengths:
        longer = contexts.prompts(questions, len(questions.asked), length)
        same = [replace(a, tokens=t) for a, t in zip(questions.asked, longer, strict=True)]
        asked += _named(same, f"{length} tokens")
    if system is not None:
        same_prompts = replace(loaded, prompts=tuple(a.prompt for a in questions.asked))
        chat = replace(settings, style="chat")
        told = encode_prompts(same_prompts, chat, system=system)
        asked += _named(told.asked, ANOTHER_SYSTEM)
        questions = replace(questions, context=max(questions.context, told.context))
    roomy = contexts.make_room(questions, settings, lengths)
    counts = {group: sum(a.prompt.group == group for a in asked) for group in _groups(asked)}
    facts = questions.facts | {"groups": counts, "asked": len(asked)}
    if system is not None:
        facts["system_prompt"] = system
    return replace(roomy, asked=tuple(asked), facts=facts)


def _named(asked: Sequence[Asked], condition: str) -> list[Asked]:
    return [replace(a, prompt=replace(a.prompt, group=condition)) for a in asked]


def _groups(asked: Sequence[Asked]) -> list[str]:
    return list(dict.fromkeys(a.prompt.group for a in asked))
