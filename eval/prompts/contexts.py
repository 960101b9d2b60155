"""Prompts of a given number of tokens, made of a set's own: the context axis of `eval speed`.

A question of the set stays at the end, so answers stay answers; what comes before it are other
questions of the set, cut at the front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from vllm_lmtp.errors import refuse
from vllm_lmtp.eval.prompts.asking import (
    ROOM_FOR_DRAFT,
    Asked,
    Questions,
    Settings,
    longest_request,
)

Context = int | None
"""Tokens of every prompt; None leaves prompts as they are."""


def make_room(questions: Questions, settings: Settings, contexts: Sequence[Context]) -> Questions:
    """The same questions, whose engines have room for every context.

    Raises:
        LMTPError: the model has none.
    """
    longest = max((context for context in contexts if context is not None), default=0)
    if not longest:
        return questions
    most = longest_request(settings.model)
    needed = longest + settings.max_tokens
    if most is not None and needed > most:
        raise refuse(
            "--contexts",
            "tokens",
            found=str(longest),
            expected=f"at most {most - settings.max_tokens}, which leaves room for an answer",
            remedy="lower it, or --max-tokens",
        )
    room = needed + ROOM_FOR_DRAFT
    return replace(
        questions, context=max(questions.context, room if most is None else min(room, most))
    )


def prompts(
    questions: Questions, count: int, context: Context = None, first: int = 0
) -> list[list[int]]:
    """`count` prompts from place `first` on, the set's groups taking turns, so that every load is
    asked alike; from the front again where the set ends."""
    own = [asked.tokens for asked in _by_turns(questions.asked)]
    places = [i % len(own) for i in range(first, first + count)]
    if context is None:
        return [own[place] for place in places]
    return [_lengthened(own, place, context) for place in places]


def _by_turns(asked: Sequence[Asked]) -> list[Asked]:
    """The first of each group, then the second of each, and so on."""
    groups: dict[str, list[Asked]] = {}
    for one in asked:
        groups.setdefault(one.prompt.group, []).append(one)
    rounds = zip_longest(*groups.values())
    return [one for turn in rounds for one in turn if one is not None]


def _lengthened(own: Sequence[list[int]], number: int, context: int) -> list[int]:
    """Prompt `number` with those after it, from the front again, put before it one by one."""
    tokens = list(own[number])
    while len(tokens) < context:
        number = (number + 1) % len(own)
        tokens = own[number] + tokens
    return tokens[-context:]
