"""Links that lead out of a folder, pipes and devices: refused, never followed or waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.security.limits import no_hang, refused_cheaply
from tests.support import folders
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.formats.checkpoint import CONFIG_FILE, INDEX_FILE, read_checkpoint
from vllm_lmtp.formats.contents import describe
from vllm_lmtp.formats.files import companions, read_weights
from vllm_lmtp.formats.unmerged import ADAPTER_CONFIG, ADAPTER_FILE
from vllm_lmtp.tools.folders.adapter import read_adapter
from vllm_lmtp.tools.folders.save import PROVENANCE_FILE, _steps

OURS = (CONFIG_FILE, folders.WEIGHTS, INDEX_FILE)


def write(folder: Path) -> Path:
    """A sound folder with an index."""
    return folders.write_sharded(folder, [folders.heads()])


# --- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CONFIG_FILE, INDEX_FILE, "model-00001-of-00001.safetensors"])
@pytest.mark.parametrize("relative", [True, False])
def test_a_link_that_leaves_the_folder(tmp_path: Path, name: str, relative: bool) -> None:
    """Sound as what it names may be: it is not of this folder."""
    inside, outside = write(tmp_path / "inside"), write(tmp_path / "outside")
    (inside / name).unlink()
    (inside / name).symlink_to(f"../outside/{name}" if relative else outside / name)
    (refusal,) = refused_cheaply(read_checkpoint, inside)
    assert (refusal.where, refusal.field) == (str(inside), name)
    assert str(outside / name) in refusal.found
    refused_cheaply(read_weights, inside)


def test_a_link_to_a_link_and_a_folder_that_is_one(tmp_path: Path) -> None:
    inside, outside = write(tmp_path / "inside"), write(tmp_path / "outside")
    (tmp_path / "way").symlink_to(inside)
    assert read_checkpoint(tmp_path / "way").schedule.n_heads == 2
    (inside / CONFIG_FILE).rename(inside / "c")
    (inside / CONFIG_FILE).symlink_to("c")
    assert read_checkpoint(tmp_path / "way").schedule.n_heads == 2
    (inside / "c").unlink()
    (inside / "c").symlink_to(outside / CONFIG_FILE)
    refused_cheaply(read_checkpoint, tmp_path / "way")


def test_a_hub_snapshot_may_link_to_its_own_blobs_alone(tmp_path: Path) -> None:
    snapshot, secret = tmp_path / "models--a--b" / "snapshots" / "12ab", tmp_path / "secret"
    blobs = write(tmp_path / "models--a--b" / "blobs")
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert read_checkpoint(snapshot).schedule.n_heads == 2
    write(secret)
    (snapshot / CONFIG_FILE).unlink()
    (snapshot / CONFIG_FILE).symlink_to(secret / CONFIG_FILE)
    refused_cheaply(read_checkpoint, snapshot)


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer.json", "chat_template.jinja"])
def test_a_tool_copies_no_file_that_a_link_brings(tmp_path: Path, name: str) -> None:
    """Or whoever publishes what he converted would publish his keys."""
    folder, secret = folders.write(tmp_path / "heads"), tmp_path / "id_rsa"
    secret.write_text("a key")
    (folder / name).symlink_to(secret)
    (refusal,) = refused_cheaply(companions, folder)
    assert (refusal.field, "id_rsa" in refusal.found) == (name, True)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/stdin", "/proc/self/environ", "/proc/kcore"])
@pytest.mark.parametrize("name", OURS)
def test_a_link_to_a_device(tmp_path: Path, name: str, target: str) -> None:
    folder = folders.write(tmp_path / "heads")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    refused_cheaply(read_checkpoint, folder)


def test_a_loop_of_links(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "heads")
    (folder / CONFIG_FILE).unlink()
    (folder / CONFIG_FILE).symlink_to("a")
    (folder / "a").symlink_to(CONFIG_FILE)
    refused_cheaply(read_checkpoint, folder)


# --- pipes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OURS, "more.safetensors", PROVENANCE_FILE, "LICENSE"])
def test_a_pipe_is_never_waited_for(tmp_path: Path, name: str) -> None:
    folder = folders.write(tmp_path / "heads")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with no_hang():
        assert companions(folder) == []
        assert _steps(folder) == []
        try:
            describe(str(folder))
        except LMTPError:
            assert name.endswith(("config.json", "safetensors"))
        else:
            assert name in (INDEX_FILE, PROVENANCE_FILE, "LICENSE")


@pytest.mark.parametrize("name", [ADAPTER_CONFIG, ADAPTER_FILE])
def test_a_pipe_in_an_adapter(tmp_path: Path, name: str) -> None:
    for file in (ADAPTER_CONFIG, ADAPTER_FILE):
        (tmp_path / file).write_text("{}")
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    refused_cheaply(read_checkpoint, tmp_path)
    refused_cheaply(lambda: read_adapter(tmp_path, read_weights(folders.write(tmp_path / "base"))))
