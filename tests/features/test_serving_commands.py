"""Other ways into a server: several front ends, a batch from a file, vLLM's own benchmarks."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from tests.engine.client import run_with_vllm
from tests.engine.test_real import CHECKPOINT, OPENINGS
from tests.engine.test_targets import SIZES
from tests.features.made.messages import joined, message
from tests.features.server import DRAFTS, ENGINE, VLLM, Server, serving
from tests.support.random_models import save_stage1
from vllm_lmtp.training.model.heads import LeapHeads

pytestmark = pytest.mark.slow
Says = Callable[[str], None]
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
PARSER = '''"""What comes before the first full stop is thought."""
from vllm.reasoning import ReasoningParserManager
from vllm.reasoning.deepseek_r1_reasoning_parser import DeepSeekR1ReasoningParser


@ReasoningParserManager.register_module("sentence")
class SentenceParser(DeepSeekR1ReasoningParser):
    start_token = "("
    end_token = "."
'''
BENCHES = {
    "throughput": "--dataset-name random --random-input-len 16 --random-output-len 32",
    "latency": "--input-len 16 --output-len 32 --batch-size 2 --num-iters-warmup 1 --num-iters 2",
}
LINES = {"throughput": "Throughput:", "latency": "Avg latency:"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("servers")
    (folder / "template.jinja").write_text(TEMPLATE)
    (folder / "parser.py").write_text(PARSER)
    return folder


@pytest.fixture(scope="module")
def plain(folder: Path) -> Iterator[Server]:
    with serving(folder / "plain.log", "--chat-template", str(folder / "template.jinja")) as server:
        yield server


@pytest.fixture(scope="module")
def drafted(folder: Path, plain: Server) -> Iterator[Server]:
    """Two front ends that take thoughts apart from answers."""
    options = ["--api-server-count", "2", "--speculative-config", DRAFTS]
    options += ["--chat-template", str(folder / "template.jinja")]
    options += ["--reasoning-parser-plugin", str(folder / "parser.py")]
    with serving(folder / "log", *options, "--reasoning-parser", "sentence") as server:
        yield server


@pytest.mark.feature("server", "`--api-server-count 2`")
def test_two_api_servers(plain: Server, drafted: Server, says: Says) -> None:
    wanted = {words: plain.complete(words).choices[0].text for words in OPENINGS}
    asked = OPENINGS * 6
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda words: drafted.complete(words).choices[0].text, asked))
    assert answers == [wanted[words] for words in asked]
    says("equal to plain")


@pytest.mark.feature("server", "reasoning parser")
def test_reasoning(plain: Server, drafted: Server, says: Says) -> None:
    """vLLM leaves out of a stream an end token that comes alone, so full stops are not compared;
    and a prompt with one is over with thinking."""
    thoughts = []
    for words in [words for words in OPENINGS if "." not in words]:
        thought, _, rest = message(plain.chat(words))["content"].partition(".")
        whole = message(drafted.chat(words))
        assert (whole["reasoning"] or "") == thought
        assert (whole["content"] or "") == rest
        parts = joined(drafted.chat(words, stream=True))
        assert (parts["reasoning"] or "") == thought
        assert (parts["content"] or "").replace(".", "") == rest.replace(".", "")
        thoughts.append(thought)
    assert sum(map(bool, thoughts)) > 2
    says("equal to plain, streamed and not")


@pytest.mark.feature("server", "`vllm run-batch`")
def test_run_batch(plain: Server, folder: Path, tmp_path: Path, says: Says) -> None:
    lines = [
        {
            "custom_id": words,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "stories",
                "messages": [{"role": "user", "content": words}],
                "temperature": 0,
                "max_tokens": 40,
            },
        }
        for words in OPENINGS
    ]
    asked, answered = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    asked.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = [VLLM, "run-batch", "-i", asked, "-o", answered, "--model", CHECKPOINT, *ENGINE]
    command += ["--served-model-name", "stories", "--speculative-config", DRAFTS]
    command += ["--chat-template", folder / "template.jinja"]
    done = run_with_vllm(command)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in answered.read_text().splitlines()]
    found = {row["custom_id"]: row["response"]["body"]["choices"][0]["message"] for row in rows}
    assert found.keys() == set(OPENINGS)
    for words, answer in found.items():
        assert answer["content"] == message(plain.chat(words))["content"]
    says("equal to plain")


@pytest.mark.parametrize(
    "what",
    [pytest.param(w, marks=pytest.mark.feature("server", f"`vllm bench {w}`")) for w in BENCHES],
)
def test_bench(what: str, tmp_path: Path, says: Says) -> None:
    folder, options = CHECKPOINT, [*ENGINE, *BENCHES[what].split()]
    if what == "latency":  # its prompts are random tokens below 10000
        folder = _larger_vocabulary(tmp_path / "stage1")
        options.append("--skip-tokenizer-init")
    command = [VLLM, "bench", what, "--model", folder, *options]
    done = run_with_vllm([*command, "--speculative-config", DRAFTS])
    assert done.returncode == 0, done.stderr[-2000:]
    assert LINES[what] in done.stdout
    says("runs")


def _larger_vocabulary(folder: Path) -> Path:
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, "vocab_size": 10_000}))
    model.heads = LeapHeads(2, model.get_output_embeddings().weight)
    return save_stage1(folder, model)
