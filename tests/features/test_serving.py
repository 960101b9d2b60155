"""What clients ask of a server, of one with drafts and of one without: the same answers."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.engine.test_real import OPENINGS
from tests.features.made.messages import joined, message
from tests.features.server import DRAFTS, Server, serving

pytestmark = pytest.mark.slow
Says = Callable[[str], None]
TEMPLATE = (
    "{% if tools %}{% for tool in tools %}{{ tool.function.name }}: "
    "{{ tool.function.description }}\n{% endfor %}{% endif %}"
    "{% for message in messages %}{{ message.content }}{% endfor %}"
)
CHOICES = {"type": "string", "enum": ["cat", "dog", "bird"]}
SCHEMA = {
    "type": "object",
    "properties": {"pet": CHOICES, "friend": CHOICES},
    "required": ["pet", "friend"],
    "additionalProperties": False,
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"One day, the little girl wanted to {name} a pet in the park. " * 4,
            "parameters": SCHEMA,
        },
    }
    for name in ("find", "feed")
]
HERMES = (
    r'<tool_call>\n\{"name": "(find|feed)", "arguments": \{"pet": "(cat|dog)"\}\}\n</tool_call>'
)
GRAMMAR = '{"backend": "xgrammar", "disable_any_whitespace": true}'
FOREVER = {"ignore_eos": True}
Pair = tuple[Server, Server]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A plain server and one with drafts."""
    folder = tmp_path_factory.mktemp("servers")
    (folder / "template.jinja").write_text(TEMPLATE)
    options = ["--chat-template", str(folder / "template.jinja"), "--block-size", "32"]
    options += ["--enable-prefix-caching", "--enable-prompt-tokens-details"]
    options += ["--structured-outputs-config", GRAMMAR]
    options += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(serving(folder / "plain.log", *options))
        drafts = ["--speculative-config", DRAFTS]
        yield plain, stack.enter_context(serving(folder / "drafts.log", *options, *drafts))


STRICT = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]
REQUIRED: dict[str, Any] = {
    "tools": STRICT,
    "tool_choice": "required",
    "frequency_penalty": 2.0,  # or the model never ends the line it may begin in an object
}
WRITTEN: dict[str, Any] = {
    "tools": TOOLS,
    "tool_choice": "auto",
    "extra_body": {"structured_outputs": {"regex": HERMES}},
}
"""By a model that was never taught the parser's format, hence held to it by a grammar."""


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(
            REQUIRED, marks=pytest.mark.feature("server", "required tool calls, prefix cache")
        ),
        pytest.param(
            WRITTEN, marks=pytest.mark.feature("server", "tool calls parsed, prefix cache")
        ),
    ],
    ids=["required", "parsed"],
)
def test_tools(servers: Pair, asked: dict[str, Any], says: Says) -> None:
    """The same tools before A, B and A again: found in the cache, and answered alike."""
    asked = {"max_tokens": 120, **asked}
    answers = []
    for server in servers:
        replies = [server.chat(words, **asked) for words in ("Tom", "Lily", "Tom")]
        streamed = [joined(server.chat(w, stream=True, **asked)) for w in ("Tom", "Lily")]
        found = [reply.usage.prompt_tokens_details for reply in replies]
        assert all(details.cached_tokens >= 64 for details in found[1:])
        messages = [message(reply) for reply in replies]
        assert messages[2] == messages[0]
        answers.append((messages, streamed))
    assert answers[0] == answers[1]
    for whole, parts in zip(*answers[1], strict=False):
        calls = [(call["name"], json.loads(call["arguments"])) for call in whole["calls"]]
        assert calls == [(c["name"], json.loads(c["arguments"])) for c in parts["calls"]]
        assert calls
        assert all(set(pets.values()) <= set(CHOICES["enum"]) for _, pets in calls)
    says("equal to plain, streamed and not")


@pytest.mark.feature("server", "JSON schema output")
def test_schema(servers: Pair, says: Says) -> None:
    asked = {"type": "json_schema", "json_schema": {"name": "pets", "schema": SCHEMA}}
    plain, drafted = [
        [
            message(server.chat(words, response_format=asked, max_tokens=120))["content"]
            for words in OPENINGS
        ]
        for server in servers
    ]
    assert drafted == plain
    assert all(json.loads(text).keys() == SCHEMA["properties"].keys() for text in drafted)
    says("equal to plain")


@pytest.mark.feature("server", "`n`, `echo`, prompt logprobs")
def test_completion_options(servers: Pair, says: Says) -> None:
    several = {"n": 3, "temperature": 1.0, "extra_body": {"top_k": 1}}
    replies = [
        (
            server.complete(OPENINGS[0], **several),
            server.complete(OPENINGS[1], echo=True, logprobs=2),
            server.complete(OPENINGS[2], extra_body={"prompt_logprobs": 1}),
        )
        for server in servers
    ]
    texts = [[[choice.text for choice in reply.choices] for reply in three] for three in replies]
    assert texts[0] == texts[1]
    assert len(texts[1][0]) == 3
    assert texts[1][1][0].startswith(OPENINGS[1])
    plain, drafted = (three[1].choices[0].logprobs for three in replies)
    assert drafted.tokens == plain.tokens
    assert drafted.token_logprobs[1:] == pytest.approx(plain.token_logprobs[1:], abs=2e-3)
    plain, drafted = (three[2].choices[0].model_dump()["prompt_logprobs"] for three in replies)
    for before, after in zip(plain[1:], drafted[1:], strict=True):
        assert after.keys() == before.keys()
        for token, entry in after.items():
            assert entry["logprob"] == pytest.approx(before[token]["logprob"], abs=2e-3)
    says("equal to plain")


@pytest.mark.feature("server", "three hundred aborts in mid-stream")
def test_aborts(servers: Pair, says: Says) -> None:
    """Clients that hang up after a few tokens leave nothing behind, and harm nobody."""
    plain, drafted = servers
    wanted = [plain.complete(words, max_tokens=200).choices[0].text for words in OPENINGS]

    def hang_up(number: int) -> None:
        words = OPENINGS[number % len(OPENINGS)]
        stream = drafted.complete(words, max_tokens=400, stream=True, extra_body=FOREVER)
        for _ in range(number % 7 + 1):
            next(iter(stream))
        stream.close()

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        storm = [pool.submit(hang_up, number) for number in range(300)]
        answers = [drafted.complete(words, max_tokens=200).choices[0].text for words in OPENINGS]
        for one in storm:
            one.result()
    assert answers == wanted
    deadline = time.monotonic() + 30
    while drafted.metric("vllm:num_requests_running") + drafted.metric("vllm:num_requests_waiting"):
        assert time.monotonic() < deadline, "requests stayed behind"
        time.sleep(0.2)
    assert drafted.metric("vllm:kv_cache_usage_perc") == 0
    says("others' answers equal plain, nothing left behind")
