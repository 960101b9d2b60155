"""Calibrate: the stride in words, a picture, and config.json put right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.chain.target import HIDDEN, VOCAB, make_chain, save_chain
from tests.support.random_models import EMBEDDED, change_config, config_of, fields, succeed
from vllm_lmtp.tools.fit import backbone
from vllm_lmtp.tools.fit import calibrate as tool


@pytest.fixture(autouse=True)
def _short_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for heads that are exact, and four times faster."""
    monkeypatch.setattr(backbone, "SAMPLE_TOKENS", 32)


def test_the_table_and_the_stride_in_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = save_chain(make_chain(2, 3, wrong=0), tmp_path / "chain")
    succeed("calibrate", folder, "--plot", tmp_path / "map.png")
    out = capfd.readouterr().out
    assert "stride 3 (as stated)" in out
    assert "t+12" in out
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    succeed("calibrate", folder, "--json")
    report = json.loads(capfd.readouterr().out)
    assert (report["stride"], report["stated_stride"], report["written"]) == (3, 3, False)
    assert [head["peak"] for head in report["heads"]] == [4, 7]
    assert all(len(head["rates"]) == 12 for head in report["heads"])
    assert report["lm_head"]["head"] == -1


def test_a_misstated_stride_is_corrected_and_noted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = save_chain(make_chain(2, 2, wrong=0), tmp_path / "chain")
    change_config(folder, skip_token=3, kept={"as": "it was"})
    before = config_of(folder)
    succeed("calibrate", folder, code=1)
    assert "--write corrects" in capfd.readouterr().out
    assert config_of(folder) == before
    succeed("calibrate", folder, "--write")
    assert "it stated 3" in capfd.readouterr().out
    assert config_of(folder) == before | {"skip_token": 2, "skip_token_was": 3}
    assert list(config_of(folder)) == [*before, "skip_token_was"]
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    succeed("calibrate", folder, "--write", "--json")  # right by now: nothing to do
    assert json.loads(capfd.readouterr().out)["written"] is False


def test_heads_only_without_a_stride(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    chain = make_chain(2, 2, wrong=0)
    heads = save_chain(chain, tmp_path / "heads", "heads")
    plain = save_chain(chain, tmp_path / "plain", "plain")
    change_config(heads, skip_token=...)
    assert fields(capfd, "calibrate", heads) == {"--target"}
    succeed("calibrate", heads, "--target", plain, "--write")
    assert (config_of(heads)["skip_token"], config_of(heads)["skip_token_was"]) == (2, None)


def test_heads_that_show_nothing_are_not_corrected(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    heads = save_chain(make_chain(2, 2, wrong=0, seed=1), tmp_path / "heads", "heads")
    plain = save_chain(make_chain(2, 2, seed=2), tmp_path / "plain", "plain")
    before = (heads / "config.json").read_text()
    succeed("calibrate", heads, "--target", plain, code=1)
    assert "no stride" in capfd.readouterr().out
    assert fields(capfd, "calibrate", heads, "--target", plain, "--write") == {"skip_token"}
    assert (heads / "config.json").read_text() == before


def test_the_embedded_checkpoint_on_a_text(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "SAMPLE_TOKENS", 128)
    succeed("calibrate", EMBEDDED, "--json")
    assert json.loads(capfd.readouterr().out)["stride"] == 2
    text = tmp_path / "text.txt"
    text.write_text("too short")
    assert fields(capfd, "calibrate", EMBEDDED, "--text", text) == {"length"}
    assert fields(capfd, "calibrate", EMBEDDED, "--text", tmp_path / "nothing") == {"text"}


def test_bad_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    chain = make_chain(2, 2)
    heads = save_chain(chain, tmp_path / "heads", "heads")
    plain = save_chain(chain, tmp_path / "plain", "plain")
    nothing = tmp_path / "nothing"
    assert fields(capfd, "calibrate", nothing) == {"path"}
    assert fields(capfd, "calibrate", nothing, "--write") == {"--write"}
    assert fields(capfd, "calibrate", plain) == {"heads.*"}
    picture = nothing / "map.png"
    assert fields(capfd, "calibrate", heads, "--target", plain, "--plot", picture) == {"--plot"}
    change_config(plain, vocab_size=VOCAB + 1, hidden_size=2 * HIDDEN)
    assert len(fields(capfd, "calibrate", heads, "--target", plain)) == 2


def test_a_full_disk_leaves_config_and_picture_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_chain(make_chain(2, 2, wrong=0), tmp_path / "chain")
    change_config(folder, skip_token=3)
    before, picture = (folder / "config.json").read_text(), tmp_path / "map.png"
    picture.write_text("an older picture")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tool, "write_json", full)
        assert fields(capfd, "calibrate", folder, "--write") == {"--write"}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert fields(capfd, "calibrate", folder, "--plot", picture) == {"--plot"}
    assert (folder / "config.json").read_text() == before
    assert picture.read_text() == "an older picture"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chain", "map.png"]
