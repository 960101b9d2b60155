"""The patches: complete records, bindings that exist, applied once, inert when not asked for."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

import vllm_lmtp.patches
from tests.patches.assumptions import ASSUMPTIONS
from tests.patches.probe import MARK
from tests.patches.sources import Sources
from tests.support.chain.target import make_chain, save_chain
from vllm_lmtp.patches import PATCHES, Patch
from vllm_lmtp.patches.page import file_of, render

ROOT = Path(__file__).parents[2]
FOLDER = Path(vllm_lmtp.patches.__file__).parent
MOST_LINES = 40
NO_PATCH = ("__init__", "page", "record")
by_name = pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)


# --- the records ----------------------------------------------------------------------------------


@by_name
def test_record_is_complete(patch: Patch) -> None:
    for field in ("name", "why", "written_against", "upstream", "remove_when"):
        assert getattr(patch, field).strip(), field
    assert patch.bindings
    assert patch.vllm is None or str(SpecifierSet(patch.vllm))
    assert "vllm/" in patch.written_against


@by_name
def test_patch_has_a_file_of_its_own(patch: Patch) -> None:
    module = ".".join(file_of(patch).with_suffix("").parts)
    assert importlib.import_module(f"vllm_lmtp.{module}").PATCH is patch


def test_every_file_is_a_listed_patch() -> None:
    files = [path.stem for path in FOLDER.rglob("*.py") if path.stem not in NO_PATCH]
    assert sorted(files) == sorted(patch.name for patch in PATCHES)
    assert len(PATCHES) == len(files)


def test_no_two_patches_change_the_same_thing() -> None:
    bindings = [str(binding) for patch in PATCHES for binding in patch.bindings]
    assert len(bindings) == len(set(bindings))


def test_only_what_can_refuse_a_version_applies_to_all() -> None:
    assert {p.name for p in PATCHES if p.vllm is None} == {"cli_args", "speculative_config"}


@by_name
def test_patch_is_small(patch: Patch) -> None:
    source = (FOLDER.parent / file_of(patch)).read_text()
    assert len(lines_of_code(source)) <= MOST_LINES


def lines_of_code(source: str) -> set[int]:
    """Numbers of the lines that hold neither blanks, comments nor docstrings."""
    empty = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*empty, tokenize.ENDMARKER):
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if documented and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def test_lines_of_code_are_counted_without_talk() -> None:
    source = (
        '"""Doc\nmore."""\n\n# note\nx = (1,\n     2)\n\ndef f():\n    """Doc."""\n    return x\n'
    )
    assert lines_of_code(source) == {5, 6, 8, 10}


def test_page_is_made_from_the_records() -> None:
    page = ROOT / "docs" / "patches.md"
    assert page.read_text() == render(), (
        "regenerate it: python -m vllm_lmtp.patches.page > docs/patches.md"
    )


# --- the installed vLLM ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed() -> Sources:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return Sources(Path(spec.origin).parent.parent)


@pytest.mark.parametrize("assumption", ASSUMPTIONS, ids=lambda check: check.__name__)
def test_installed_vllm_is_as_we_assume(installed: Sources, assumption: Any) -> None:
    assumption(installed)


def test_a_vllm_without_a_binding_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(LookupError):
        ASSUMPTIONS[0](Sources(tmp_path))


# --- in processes of their own --------------------------------------------------------------------


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.patches.probe", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, text=True, **pipes)


def report_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    (line,) = [line for line in out.splitlines() if line.startswith(MARK)]
    return json.loads(line.removeprefix(MARK))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The probe's reports, from processes that run side by side."""
    folder = str(save_chain(make_chain(1, 1), tmp_path_factory.mktemp("plain"), "plain"))
    processes = {
        "with": start("configs", folder, VLLM_PLUGINS="lmtp"),
        "without": start("configs", folder, VLLM_PLUGINS=""),
        "bindings": start("bindings"),
    }
    return {name: report_of(process) for name, process in processes.items()}


@pytest.fixture(scope="module")
def applied(reports: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return reports["bindings"]


def test_registering_imports_nothing_of_vllms(applied: dict[str, Any]) -> None:
    """A runner that is imported early would initialise devices in the wrong process."""
    assert [module for module in applied["early"] if "worker" in module] == []


def test_every_binding_is_changed_exactly_once(applied: dict[str, Any]) -> None:
    importable = {name: b for name, b in applied["bindings"].items() if not b["why"]}
    assert {name: b["applied"] for name, b in importable.items()} == dict.fromkeys(importable, True)
    # Classes, types and words are replaced, not wrapped.
    replaced = ("_spec_decoding_cls", "EagleModelTypes", "ray_device_key")
    assert {name: b["wrapped"] for name, b in importable.items()} == {
        name: int(not name.endswith(replaced)) for name in importable
    }


def test_what_cannot_be_imported_here_is_not_the_core(applied: dict[str, Any]) -> None:
    missing = {name.split(":")[0] for name, b in applied["bindings"].items() if b["why"]}
    assert missing <= {"vllm.v1.metrics.ray_wrappers", "vllm.v1.worker.gpu.model_runner"}


def test_command_line_takes_the_bare_word_and_all_that_it_took(applied: dict[str, Any]) -> None:
    assert applied["command_line"] == {
        "--speculative-config lmtp": {"method": "lmtp"},
        "-sc lmtp": {"method": "lmtp"},
        '--speculative-config={"method":"ngram"}': {"method": "ngram"},
        "--speculative-config lmtpx": "refused",
        "--spec-method lmtp": "lmtp",
        "--spec-method ngram": "ngram",
        "--spec-method nonsense": "refused",
    }


@pytest.fixture(scope="module")
def with_and_without(reports: dict[str, dict[str, Any]]) -> tuple[dict, dict]:
    return reports["with"], reports["without"]


def test_plugin_was_there_and_was_not(with_and_without: tuple[dict, dict]) -> None:
    ours, none = with_and_without
    assert "vllm_lmtp.patches" in ours["ours"]
    assert none["ours"] == []


@pytest.mark.parametrize("request_", ["plain", "ngram"])
def test_configs_are_the_same_when_lmtp_is_not_asked_for(
    with_and_without: tuple[dict, dict], request_: str
) -> None:
    ours, none = with_and_without
    assert ours[request_] == none[request_]


def test_other_methods_still_go_through(with_and_without: tuple[dict, dict]) -> None:
    ours, _ = with_and_without
    assert ours["plain"]["speculative"] is None
    assert ours["ngram"]["speculative"] == ["SpeculativeConfig", "ngram"]


def test_nothing_heavy_is_imported_and_nothing_is_logged(
    with_and_without: tuple[dict, dict],
) -> None:
    ours, _ = with_and_without
    assert ours["loud"] == []
    heavy = {
        "vllm_lmtp.worker.heads",
        "vllm_lmtp.config.spec_config",
        "vllm_lmtp.runner_v1.proposer",
        "vllm_lmtp.method.history",
    }
    assert heavy.isdisjoint(ours["ours"])
