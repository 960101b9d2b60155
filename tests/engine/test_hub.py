"""Hugging Face ids in place of folders, for the target, for the heads and for both in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.client import EngineError, EngineHost
from tests.engine.test_chain import check, prompts_of
from tests.support.chain.target import Chain, save_chain

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put_in_cache(hub: Path, name: str, chain: Chain, layout: str) -> str:
    """Lay a checkpoint into a hub cache as a download would; returns its id."""
    repo = hub / f"models--org--{name}"
    save_chain(chain, repo / "snapshots" / COMMIT, layout)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return f"org/{name}"


def test_ids_of_target_and_heads(chain: Chain, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    stage1 = put_in_cache(hub, "stage1", chain, "stage1")
    target = put_in_cache(hub, "target", chain, "plain")
    heads = put_in_cache(hub, "heads", chain, "heads")
    host = EngineHost(1, False, tmp_path / "host.log", hub=hub)
    try:
        for model, spec in (
            (stage1, "lmtp"),
            (target, {"method": "lmtp", "model": heads}),
            (target, {"model": heads}),
        ):
            host.start(model, speculative_config=spec, skip_tokenizer_init=True)
            check(host, chain, prompts_of(chain, [5, 40]), 20, 6, 512)
        with pytest.raises(EngineError, match="org/nowhere: path: found no such folder"):
            host.start(
                target,
                speculative_config={"method": "lmtp", "model": "org/nowhere"},
                skip_tokenizer_init=True,
            )
    finally:
        host.close()
