"""How large a cache is asked for: known sizes, and vLLM's own count of its blocks."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.engine_stand_in import QUESTIONS, SETTINGS, StandIn
from tests.support.random_models import EMBEDDED
from vllm_lmtp.eval.engines import cache
from vllm_lmtp.eval.engines.engine import CACHE_GIB, Engine, prepare_environment
from vllm_lmtp.eval.engines.methods import Method
from vllm_lmtp.eval.measurements import speed
from vllm_lmtp.eval.measurements.speed import Plan
from vllm_lmtp.eval.prompts.asking import Questions, Settings

PLAIN = Method("plain")
LLAMA_3_8B = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with the configuration of a model of known size, on a machine of 64 GiB."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_8B))
    machine(monkeypatch, 64)
    return str(tmp_path)


def machine(monkeypatch: pytest.MonkeyPatch, gib: int) -> None:
    total = SimpleNamespace(total=gib * 2**30, available=gib * 2**30)
    monkeypatch.setattr("vllm_lmtp.eval.engines.cache.psutil.virtual_memory", lambda: total)


def asking(model: str, dtype: str = "bfloat16", max_tokens: int = 36) -> Settings:
    return Settings(model, max_tokens, dtype, 64, 0, "raw")


def test_a_token_of_llama_3_8b_takes_128_kib(llama: str) -> None:
    assert cache.token_bytes(llama, "bfloat16") == 128 * 1024
    assert cache.token_bytes(llama, "auto") == 128 * 1024
    assert cache.token_bytes(llama, "float32") == 256 * 1024


def test_the_largest_requests_of_the_largest_load_have_room(llama: str) -> None:
    """Blocks of 128 tokens take 16 MiB. Prompts of 924, 36 of the answer and 64 for a draft fill
    eight; 64 of them and the empty block take 8,208 MiB."""
    questions = Questions((), {}, 1024)
    many = [[1] * 924] * 64
    shorter = [[1] * 28] * 100
    for loads, gib in (
        ([(many, 64)], 9),
        ([(many, 7)], 1),  # 57 blocks
        ([(many, 1), (shorter + many, 64)], 9),
        ([(shorter, 64)], 2),  # a block each
        ([(many[:4], 64)], 1),
    ):
        assert cache.needed_gib(PLAIN, questions, asking(llama), loads) == gib
    # One request more than 8,192 tokens long needs room, whether it is asked or not.
    wide = Questions((), {}, 8 * 1024 + 1)
    assert cache.needed_gib(PLAIN, wide, asking(llama), [(shorter, 1)]) == 2


def test_a_drafter_has_a_cache_of_its_own_and_leap_heads_have_none(
    llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 128)
    questions, loads = Questions((), {}, 1024), [([[1] * 924] * 64, 64)]
    for config, gib in (
        ({"method": "draft_model", "model": llama}, 17),  # 16,416 MiB
        ({"method": "lmtp", "model": llama}, 9),
        ({"method": "ngram"}, 9),
    ):
        method = Method("m", config)
        assert cache.needed_gib(method, questions, asking(llama), loads) == gib


def test_it_takes_a_quarter_of_the_memory_at_most(
    llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 20)
    questions, loads = Questions((), {}, 1024), [([[1] * 924] * 64, 64)]
    assert cache.needed_gib(PLAIN, questions, asking(llama), loads) == 5


def test_a_model_that_does_not_say(tmp_path: Path) -> None:
    """The engine will tell what is wrong with it."""
    assert cache.token_bytes(str(tmp_path), "float32") == 0
    assert cache.token_bytes(str(tmp_path / "none"), "float32") == 0


def test_vllm_makes_as_many_blocks_as_are_counted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_GIB, "1")
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # put back afterwards
    prepare_environment(1)
    engine = Engine(str(EMBEDDED), None, True, dtype="float32", max_model_len=128)
    scheduler = engine.llm.llm_engine.engine_core.engine_core.scheduler
    found = scheduler.block_size, scheduler.kv_cache_config.num_blocks
    engine.close()
    token = cache.token_bytes(str(EMBEDDED), "float32")
    assert found == (cache.BLOCK, 2**30 // (cache.BLOCK * token))


def test_every_engine_is_told(stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch) -> None:
    """By a comparison: its loads, its methods."""
    told = []
    monkeypatch.setattr(
        "vllm_lmtp.eval.measurements.speed.EngineProcess",
        lambda job: told.append(job.cache_gib) or stand_in(job),
    )
    monkeypatch.setattr("vllm_lmtp.eval.engines.cache.token_bytes", lambda model, dtype: 2**24)
    machine(monkeypatch, 1024)
    plan = Plan((1, 8), 1, least=1, per_stream=1, eager=True, alive=None, threads=1)
    methods = [PLAIN, Method("d", {"method": "draft_model", "model": "x"})]
    speed.measure(methods, QUESTIONS, SETTINGS, plan, None, lambda text: None)
    # Eight requests of a block each and the empty one, at 2 GiB a block for each model.
    assert told == [18, 36]
