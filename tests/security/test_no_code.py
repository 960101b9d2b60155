"""Weights never run code: no way to load a pickle exists in the package, and none is taken."""

from __future__ import annotations

import ast
import json
import os
import pickle
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.formats.test_bad_files import WritesAFile
from tests.security.limits import no_hang, refused_cheaply
from tests.support import folders
from tests.support.refused import refusals
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.formats.checkpoint import read_checkpoint
from vllm_lmtp.formats.files import companions, read_weights
from vllm_lmtp.formats.unmerged import ADAPTER_CONFIG
from vllm_lmtp.tools.fit.fitness import check_fit
from vllm_lmtp.tools.folders.adapter import read_adapter
from vllm_lmtp.tools.folders.medusa import from_medusa

ROOT = Path(__file__).parents[2]
NEVER = {
    *("eval", "exec", "compile", "__import__"),
    *("torch.load", "torch.hub.load", "torch.package.PackageImporter", "numpy.load", "np.load"),
    *("pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load"),
    *("dill.load", "dill.loads", "marshal.load", "marshal.loads", "shelve.open"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load"),
    *("os.system", "subprocess.getoutput"),
}
PICKLES = ["pytorch_model.bin", "heads.pt", "last.ckpt", "model.pth", "m.pkl", "medusa_lm_head.pt"]


@cache
def calls() -> list[tuple[Path, ast.Call, str]]:
    """Every call in the package, with the dotted name that it is called by."""
    return [
        (file, node, ast.unparse(node.func))
        for place in ("vllm_lmtp", "eval", "patches")
        for file in sorted((ROOT / place).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
    ]


def test_nothing_in_the_package_can_run_what_a_file_holds() -> None:
    found = [f"{file}:{node.lineno}: {name}" for file, node, name in calls() if name in NEVER]
    assert not found


def test_no_model_is_loaded_with_its_own_code() -> None:
    """Where transformers could run one it asks at the terminal, unless it is told not to."""
    seen = 0
    for file, node, name in calls():
        said = [ast.unparse(k.value) for k in node.keywords if k.arg == "trust_remote_code"]
        asked = name.split(".")[-2:]
        reads = asked[-1] == "from_pretrained" and asked[0].startswith("Auto")
        assert said == ["False"] * (reads or bool(said)), f"{file}:{node.lineno}: {name}"
        seen += reads
    assert seen >= 10


def test_a_target_with_its_own_code_is_refused_without_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "mine.py").write_text("raise SystemExit('run')")

    def asked(*_: object) -> str:
        pytest.fail("transformers asks whether to run it")

    monkeypatch.setattr("builtins.input", asked)
    heads = read_checkpoint(folders.write(tmp_path / "heads"))
    with pytest.raises(LMTPError) as caught:
        check_fit(heads, str(tmp_path))
    (refusal,) = caught.value.refusals
    assert (refusal.where, refusal.field) == (str(tmp_path), "config.json")


@pytest.mark.parametrize("pipe", [False, True])
@pytest.mark.parametrize("name", PICKLES)
def test_a_folder_of_pickles_alone(tmp_path: Path, name: str, pipe: bool) -> None:
    """Refused by all who read folders, and never as much as opened: a pipe would hang."""
    proof, base = tmp_path / "executed", read_weights(folders.write(tmp_path / "base"))
    folder = folders.write(tmp_path / "heads")
    (folder / folders.WEIGHTS).unlink()
    if pipe:
        os.mkfifo(folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(WritesAFile(proof)))
    (folder / ADAPTER_CONFIG).write_text('{"peft_type": "LORA"}')
    with no_hang():
        assert [r.field for r in refusals(folder)] == ["weights"]
    refused_cheaply(read_weights, folder)
    refused_cheaply(read_adapter, folder, base)
    refused_cheaply(from_medusa, folder, tmp_path / "out")
    assert not proof.exists()


def test_a_pickle_under_the_name_of_safetensors(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    folder = folders.write(tmp_path / "heads")
    (folder / folders.WEIGHTS).write_bytes(pickle.dumps(WritesAFile(proof)))
    (refusal,) = refusals(folder)
    assert refusal.where == str(folder / folders.WEIGHTS)
    assert not proof.exists()


def test_code_beside_the_weights_is_neither_run_nor_copied(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "heads", values=folders.config(auto_map={"AutoModel": "m.M"}))
    for name in ("m.py", "modeling.py", "conftest.py", "__init__.py"):
        (folder / name).write_text("raise SystemExit('run')")
    before = set(sys.modules)
    assert read_checkpoint(folder).schedule.n_heads == 2
    assert not {"m", "modeling"} & (set(sys.modules) - before)
    assert companions(folder) == []
