"""The proposed registry: the diff fits vLLM 0.32, and L-MTP serves exactly through it."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.client import EngineError, EngineHost
from tests.engine.test_chain import GREEDY, MAX_LEN, check, prompts_of
from tests.support.chain.target import Chain, make_chain, save_chain
from tests.upstream.changed_copy import DIFF, ENTRY_POINT, apply, installed, make_copy, touched
from tests.upstream.plugin import UNNECESSARY
from vllm_lmtp.compat import is_supported, vllm_version
from vllm_lmtp.patches import PATCHES

MOST_LINES = 120
PAGE = DIFF.with_name("README.md")
NEEDS_PATCH = pytest.mark.skipif(shutil.which("patch") is None, reason="needs the command `patch`")
WRITTEN_AGAINST = pytest.mark.skipif(
    not is_supported(vllm_version(), "==0.32.*"), reason="the diff is against vLLM 0.32"
)


# --- the diff and its page ------------------------------------------------------------------------


def test_the_diff_is_small() -> None:
    lines = re.findall(r"^[+-](?!\+\+ |-- ).*$", DIFF.read_text(), re.MULTILINE)
    assert 0 < len(lines) <= MOST_LINES


@NEEDS_PATCH
@WRITTEN_AGAINST
def test_the_diff_applies_to_the_installed_vllm_without_shifts() -> None:
    done = apply(installed(), "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said == [line for line in said if re.fullmatch(r"checking file \S+", line)]
    assert len(said) == len(touched(DIFF.read_text())) == 5


def listed(heading: str) -> list[str]:
    """Patches that the tables under a heading of the page name, one a row."""
    page = PAGE.read_text()
    _, _, rest = page.partition(f"## {heading}\n")
    section = re.split(r"^## ", rest, flags=re.MULTILINE)[0]
    return re.findall(r"^\| \[?`([a-z0-9_]+)`", section, re.MULTILINE)


def test_the_page_says_of_every_patch_whether_it_stays() -> None:
    goes, stays = listed("Patches that go"), listed("Patches that stay")
    assert set(goes) == UNNECESSARY
    assert sorted(goes + stays) == sorted(patch.name for patch in PATCHES)


# --- an engine ------------------------------------------------------------------------------------

KINDS = {"v2-async": (2, True), "v2": (2, False), "v1": (1, False)}


@pytest.fixture(scope="module")
def chain() -> Chain:
    return make_chain(3, 2)


@pytest.fixture(scope="module")
def chain_folder(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chain(chain, tmp_path_factory.mktemp("chain") / "stage1")


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with vLLM as the diff makes it."""
    return make_copy(tmp_path_factory.mktemp("changed"))


@pytest.fixture(scope="module", params=list(KINDS))
def host(
    request: pytest.FixtureRequest,
    changed: Path,
    chain_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[EngineHost]:
    """An engine on the changed vLLM, with the tests' plugin and no other."""
    log = tmp_path_factory.mktemp("logs") / "host.log"
    with serving(*KINDS[request.param], changed, chain_folder, log) as host:
        yield host


@contextlib.contextmanager
def serving(
    runner: int, asynchronous: bool, changed: Path, model: Path, log: Path
) -> Iterator[EngineHost]:
    variables = {"VLLM_PLUGINS": ENTRY_POINT}
    host = EngineHost(
        runner, asynchronous, log, path=changed, module="tests.upstream.host", variables=variables
    )
    try:
        host.start(
            model,
            speculative_config={"method": "lmtp"},
            max_model_len=MAX_LEN,
            max_num_batched_tokens=64,
            max_num_seqs=6,
        )
        yield host
    finally:
        host.close()


@pytest.mark.engine
@pytest.mark.timeout(600)
@NEEDS_PATCH
@WRITTEN_AGAINST
class TestThroughTheRegistry:
    def test_vllm_is_the_copy_and_the_patches_are_off(
        self, host: EngineHost, changed: Path
    ) -> None:
        about = host.call("about")
        assert about["vllm"] == str(changed / "vllm" / "__init__.py")
        assert UNNECESSARY.isdisjoint(about["applied"])
        assert {"load_weights", "model_config", "scheduler"} <= set(about["applied"])

    def test_tokens_and_all_counters_equal_the_simulator(
        self, host: EngineHost, chain: Chain
    ) -> None:
        """Chunks of prompts, more requests than slots, and prompts that start cold."""
        lengths = [1, 97, 30, 2, 64, 110, 3, 17, 45, 80, 5, 119]
        counters = check(host, chain, prompts_of(chain, lengths, seed=4), 30, 6)
        assert all(0 < n < counters.num_drafts for n in counters.accepted_per_pos)

    def test_the_command_line_takes_the_method(self, host: EngineHost) -> None:
        assert host.call("command_line") == {
            "--speculative-config lmtp": {"method": "lmtp"},
            "-sc lmtp": {"method": "lmtp"},
            '--speculative-config={"method":"ngram"}': {"method": "ngram"},
            "--speculative-config lmtpx": "refused",
            "--spec-method lmtp": "lmtp",
            "--spec-method ngram": "ngram",
            "--spec-method nonsense": "refused",
        }

    def test_offline_arguments_give_the_registered_config(
        self, host: EngineHost, chain_folder: Path
    ) -> None:
        for given in ("lmtp", {"method": "lmtp"}):
            found = host.call("configured", model=str(chain_folder), speculative_config=given)
            assert found == {"class": "LMTPSpeculativeConfig", "method": "lmtp"}
        ngram = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}
        found = host.call("configured", model=str(chain_folder), speculative_config=ngram)
        assert found == {"class": "SpeculativeConfig", "method": "ngram"}


WITHOUT = {
    "vllm/config/vllm.py": "async scheduling is only supported",
    "vllm/engine/arg_utils.py": "Input should be 'ngram'",
    "vllm/v1/worker/gpu/spec_decode/__init__.py": "lmtp is not supported yet",
    "vllm/v1/metrics/loggers.py": None,
}
"""What vLLM says when the diff leaves a file as it is; of counters it says nothing."""


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(600)
@NEEDS_PATCH
@WRITTEN_AGAINST
@pytest.mark.parametrize("file", WITHOUT)
def test_no_part_of_the_diff_can_be_left_out(
    file: str, chain: Chain, chain_folder: Path, tmp_path: Path
) -> None:
    changed = make_copy(tmp_path / "changed")
    shutil.copy(installed() / file, changed / file)
    said = WITHOUT[file]
    refused = pytest.raises(EngineError, match=said) if said else contextlib.nullcontext()
    with refused, serving(2, True, changed, chain_folder, tmp_path / "log") as host:
        (prompt,) = prompts_of(chain, [5])
        counters = host.generate([prompt], {**GREEDY, "max_tokens": 8})["counters"]
        assert counters["vllm:spec_decode_num_drafts"] > 0
        assert not [name for name in counters if "lmtp" in name]
