"""The command as a whole: light to import, and errors that never show a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_lmtp import __version__
from vllm_lmtp.cli import main
from vllm_lmtp.compat import SUPPORTED_VLLM


def test_importing_the_command_imports_neither_torch_nor_vllm() -> None:
    code = (
        "import sys, vllm_lmtp.cli as cli; cli.build_parser(); "
        "print([m for m in ('torch', 'vllm', 'transformers', 'tabulate') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    text = capsys.readouterr().out
    assert __version__ in text
    assert SUPPORTED_VLLM in text
    assert main(["--version", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["vllm_lmtp"] == __version__
    assert value["supported_vllm"] == SUPPORTED_VLLM
    assert value["vllm"][0].isdigit()


def test_no_command_is_refused_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "doctor" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["inspect"], ["train"], ["demo", "--model"]])
def test_a_missing_path_is_refused(
    words: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OMP_NUM_THREADS", "VLLM_ENABLE_V1_MULTIPROCESSING"):
        monkeypatch.setenv(name, "1")  # the demo sets them for its process
    missing = str(tmp_path / "nothing")
    assert main([*words, missing]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: L-MTP: ")
    assert missing in err
    assert "Remedy:" in err
    assert "Traceback" not in err


def test_json_errors_list_every_refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "inspect", str(tmp_path / "nothing")]) == 2
    captured = capsys.readouterr()
    value = json.loads(captured.out)
    assert set(value) == {"error", "refusals"}
    (refusal,) = value["refusals"]
    assert set(refusal) == {"where", "field", "found", "expected", "remedy"}
    assert captured.err.startswith("error: ")


@pytest.mark.parametrize("stride", ["0", "65", "two", "-1", "1.5"])
def test_an_impossible_stride_is_refused(stride: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["inspect", "anything", "--stride", stride])
    assert stop.value.code == 2
    assert "integer from 1 to 64" in capsys.readouterr().err


def test_doctor_wants_heads_with_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--target", "anything"])
    assert stop.value.code == 2
    assert "--heads" in capsys.readouterr().err
