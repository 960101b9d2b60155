"""Chat answers without what differs from call to call."""

from __future__ import annotations

from typing import Any


def message(answer: Any) -> dict[str, Any]:
    """What was answered, identifiers aside."""
    message = answer.choices[0].message.model_dump()
    calls = [call["function"] for call in message["tool_calls"] or []]
    return {"content": message["content"], "reasoning": message.get("reasoning"), "calls": calls}


def joined(stream: Any) -> dict[str, Any]:
    """The parts of a stream put together as `message` has them."""
    content, reasoning, calls = "", "", {}
    for chunk in stream:
        for choice in chunk.choices:
            delta = choice.delta.model_dump()
            content += delta["content"] or ""
            reasoning += delta.get("reasoning") or ""
            for call in delta.get("tool_calls") or []:
                whole = calls.setdefault(call["index"], {"name": "", "arguments": ""})
                for part in whole:
                    whole[part] += call["function"][part] or ""
    return {
        "content": content or None,
        "reasoning": reasoning or None,
        "calls": [calls[index] for index in sorted(calls)],
    }
