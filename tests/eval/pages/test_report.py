"""Pages and pictures of results, and what a result says about where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.eval.offline.test_accuracy import exact, ranked
from tests.support.random_models import fields, succeed
from vllm_lmtp.cli import main
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.eval.measurements.acceptance import Request, by_group, loops, summarise
from vllm_lmtp.eval.offline.accuracy import summarise as summarise_heads
from vllm_lmtp.eval.pages import report
from vllm_lmtp.eval.provenance import provenance
from vllm_lmtp.eval.statistics import share
from vllm_lmtp.method.leap import LeapSchedule

LEAP = LeapSchedule(2, 2)
FACTS = {
    "folder": "heads",
    "n_heads": 2,
    "stride": 2,
    "draft_vocabulary": 400,
    "vocabulary": 509,
    "scorer": "none",
    "options": {},
}


def result(kind: str, **values: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "provenance": provenance(["eval", kind], 3),
        "set": {
            "name": "spec_bench",
            "version": "1",
            "rows": 480,
            "found": 480,
            "limit": 2,
            "asked": 4,
            "too_long": 1,
            "style": "raw text",
            "sha256_of_prompts": "0" * 64,
        },
        "settings": {"model": "m", "dtype": "float32", "max_tokens": 9, "batch": 4},
        **values,
    }


def acceptance_result() -> dict[str, Any]:
    requests = [
        Request(0, "QA", 5, 12, None, (4, 4, 4), (4, 0, 4)),
        Request(1, "QA", 5, 9, None, (4, 4), (3, 3)),
        Request(2, "RAG", 5, 30, 6, (4,) * 10, (2,) * 10),
    ]
    straight, groups = requests[:2], ["QA", "RAG"]
    at = {
        "temperature": 0.0,
        "loops": loops(requests),
        "all": summarise(requests, LEAP, 4),
        "without_loops": summarise(straight, LEAP, 4),
        "by_group": by_group(requests, groups),
        "by_group_without_loops": by_group(straight, groups),
    }
    return result("acceptance", variants=[{"name": "leap", "temperatures": [at], **FACTS}])


def heads_result() -> dict[str, Any]:
    found = summarise_heads([ranked(exact(2, 2), s, 4, 20) for s in (1, 2)], LEAP, 12)
    none = summarise_heads([], LEAP, 12)
    at = {
        "temperature": 1.0,
        "answers": 3,
        "tokens": 60,
        "looping_answers": 1,
        "lm_head": {"top1": share([(6, 10)]), "top10": share([(9, 10)])},
        "heads": [
            {"name": "leap", "all": found, "without_loops": found, **FACTS},
            {"name": "nothing", "all": none, "without_loops": none, **FACTS},
        ],
    }
    return result("heads", temperatures=[at])


def lossless_result() -> dict[str, Any]:
    difference = {"number": 7, "place": 4, "plain": 1, "lmtp": 2}
    differences = [
        difference | {"margin": 1e-5, "best_margin": 1e-5},
        difference | {"lmtp": None, "margin": None, "best_margin": None},
    ]
    variant = {"answers": 4, "tokens": 36, "identical": 2, "differences": differences}
    return result("lossless", variants=[{"name": "leap", **variant, **FACTS}])


RESULTS = [acceptance_result, heads_result, lossless_result]


@pytest.mark.parametrize("make", RESULTS)
def test_the_page_comes_from_the_file_alone(make: Any, tmp_path: Path) -> None:
    made = make()
    report.check_output(tmp_path / "out")
    files = report.save(made, tmp_path / "out")
    ends = (".json", ".md", ".png", *(["_tree.png"] if made["kind"] == "heads" else []))
    assert [f.name for f in files] == [f"{made['kind']}{end}" for end in ends]
    assert sorted(tmp_path.glob("out/*")) == sorted(files)  # and no part of one
    assert report.render(report.read_result(files[0])) == files[1].read_text()
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_acceptance_with_and_without_loops() -> None:
    page = report.render(acceptance_result())
    everything, straight = page.split("### Without looping answers")
    # 34 accepted of 15 drafts; without the loop 14 of 5.
    assert f"{1 + 34 / 15:.3f}" in everything
    assert f"{1 + 14 / 5:.3f}" in straight
    assert "| leap | 3 | 51 | 1 | 47.1 |" in everything
    assert "| heads | QA | RAG | Overall |" in everything
    assert "1 too long for the model left out" in page
    assert "at most 2 of each group" in page


def test_the_page_of_heads() -> None:
    page = report.render(heads_result())
    assert "1 answers loop" in page
    assert "| 0 | 3 | 100.0 ± 0.0 |" in page
    assert "| measured: each place its best token | 5.000 ± 0.000 | - |" in page
    assert "Without looping answers" in page


def test_the_page_of_differences() -> None:
    page = report.render(lossless_result())
    assert "| leap | 4 | 36 | 2 |" in page
    assert "| 7 | 4 | 1 | 2 | 0.000 | 0.000 |" in page
    assert "| 7 | 4 | 1 | None | - | - |" in page


def test_provenance_names_no_folder_of_this_machine() -> None:
    found = provenance(["eval", "heads", "--heads", "a=/some/where/heads", "--set", "/x/p q"], 3)
    assert found["command"] == "vllm-lmtp eval heads --heads a=heads --set 'p q'"
    assert found["seed"] == 3
    assert {"vllm-lmtp", "python", "torch", "transformers"} <= set(found["versions"])
    assert found["machine"]["usable_cores"] <= found["machine"]["cores"]


def test_a_commit_only_of_this_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    assert provenance([], 0)["commit"] is None


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for text, field in (("{", "content"), ("[]", "kind"), ('{"kind": "poem"}', "kind")):
        file.write_text(text)
        with pytest.raises(LMTPError) as error:
            report.read_result(file)
        assert error.value.refusals[0].field == field


def test_an_output_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LMTPError, match="--output"):
        report.check_output(tmp_path / "file" / "out")


def test_a_full_disk_leaves_no_half_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    report.check_output(tmp_path)
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(LMTPError, match="No space left"):
        report.save(lossless_result(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_render_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "lossless.json"
    file.write_text(json.dumps(lossless_result()))
    succeed("eval", "render", file)
    assert capfd.readouterr().out.startswith("# Greedy output against plain decoding")
    succeed("eval", "render", file, "--json")
    assert json.loads(capfd.readouterr().out)["markdown"].startswith("# Greedy")
    assert fields(capfd, "eval", "render", tmp_path / "nothing.json") == {"content"}


def test_bad_input(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before an engine starts."""
    for name in ("OMP_NUM_THREADS", "VLLM_ENABLE_V1_MULTIPROCESSING"):
        monkeypatch.setenv(name, "1")  # the command sets them for its process
    acceptance = ("eval", "acceptance", "--threads", "1")
    nothing = tmp_path / "nothing"
    assert fields(capfd, *acceptance, "--model", nothing) == {"path"}
    assert fields(capfd, *acceptance, "--heads", f"a={nothing}") == {"path"}
    assert fields(capfd, *acceptance, "--heads", "=x") == {"name"}
    assert fields(capfd, *acceptance, "--set", "gsm9k") == {"name"}
    assert fields(capfd, *acceptance, "--option", "two") == {"value"}
    assert fields(capfd, *acceptance, "--style", "chat") == {"chat_template"}
    assert fields(capfd, *acceptance, "--max-tokens", "512") == {"prompts"}


@pytest.mark.parametrize("temperature", ["-1", "nan", "warm"])
def test_impossible_temperatures(temperature: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["eval", "heads", "--temperature", temperature])
    assert stop.value.code == 2
    assert "temperature" in capfd.readouterr().err
