"""A draft length that is found while serving: tokens are plain decoding's whatever is chosen."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.engine.client import EngineHost, counted
from tests.engine.test_chain import GREEDY, MAX_LEN, prompts_of
from tests.support.chain.target import Chain

AUTO = {"method": "lmtp", "lmtp_draft_length": "auto"}
STEPS = "vllm:lmtp_num_steps/"


def plain(chain: Chain, prompts: list[list[int]], limits: list[int]) -> list[list[int]]:
    return [chain.walk(p[-1], n)[1:] for p, n in zip(prompts, limits, strict=True)]


def test_any_length_at_any_step(host: EngineHost, chain: Chain, chain_folder: Path) -> None:
    """Requests come and go in chunks of a prompt while lengths are drawn at random."""
    host.start(
        chain_folder,
        speculative_config=AUTO,
        max_model_len=MAX_LEN,
        max_num_batched_tokens=64,
        max_num_seqs=6,
    )
    host.call("choose_at_random", seed=1)
    prompts = prompts_of(chain, [2, 90, 5, 40, 41, 1, 3, 120, 12, 7, 30, 60])
    limits = [10, 14, 20, 30, 36, 25, 33, 9, 28, 17, 30, 22]
    params = [{**GREEDY, "max_tokens": limit} for limit in limits]
    reply = host.generate(prompts, params)
    assert [output for (output,) in reply["tokens"]] == plain(chain, prompts, limits)
    counters = counted(reply["counters"], 6, 2)
    drafted = counters.drafted_per_pos
    assert drafted[0] > drafted[2] > drafted[4] > 0
    assert all(a <= d for a, d in zip(counters.accepted_per_pos, drafted, strict=True))
    assert sum(counters.accepted_per_pos) > 0


def test_what_is_learnt_is_shown_and_kept(
    host: EngineHost, chain: Chain, chain_folder: Path, tmp_path: Path
) -> None:
    """Some steps of one and of four streams; the next engine starts from their file."""
    many = 300 if host.runner == 1 else 60  # the interpreter takes its time
    file = tmp_path / "length.json"
    spec = AUTO | {"lmtp_draft_length_file": str(file)}
    for visit in range(2):
        host.start(chain_folder, speculative_config=spec)
        found = host.call("lengths")
        assert bool(found["in_use"]) == bool(visit)
        shown: Counter[str] = Counter()
        for count in (1, 4):
            prompts = prompts_of(chain, [8, 5, 9, 4][:count])
            reply = host.generate(prompts, {**GREEDY, "max_tokens": many})
            outputs = [output for (output,) in reply["tokens"]]
            assert outputs == plain(chain, prompts, [many] * count)
            shown.update(reply["counters"])
        found = host.call("lengths")
        assert found["steps"] > many // 3
        assert {"1", "4"} <= set(found["in_use"])
        steps = {name: n for name, n in shown.items() if name.startswith(STEPS)}
        assert visit or steps[f"{STEPS}0"] > 0  # who knows nothing begins with plain steps
        assert 0 < sum(steps.values()) <= found["steps"]
        host.call("stop")
        assert json.loads(file.read_text())["state"]["sizes"].keys() >= {"1", "4"}
