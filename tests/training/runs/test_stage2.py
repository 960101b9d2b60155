"""Stage 2 on a tiny random model: what is trained, what is saved, and that it can be resumed."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("accelerate")
pytest.importorskip("datasets")

from safetensors.torch import load_file  # noqa: E402

from tests.support.training import tiny_runs  # noqa: E402
from vllm_lmtp.errors import LMTPError  # noqa: E402
from vllm_lmtp.formats.checkpoint import read_checkpoint  # noqa: E402
from vllm_lmtp.tools.folders.merge import merge  # noqa: E402
from vllm_lmtp.training.model.leap_model import (  # noqa: E402
    TARGETS,
    LeapModel,
    attach_lora,
    load_leap_model,
    save_adapter,
)
from vllm_lmtp.training.runs import stage1, stage2  # noqa: E402
from vllm_lmtp.training.runs.run import run  # noqa: E402
from vllm_lmtp.training.settings.stages import LoraConfig  # noqa: E402

WEIGHTS = "adapter_model.safetensors"
PROJECTIONS = [
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_runs.save_stage1(tmp_path / "stage1")
    tiny_runs.save_dataset(tmp_path / "dataset")
    return tmp_path


@contextmanager
def _interrupted(monkeypatch: pytest.MonkeyPatch, model: type, step: int) -> Iterator[None]:
    """The process is told to stop while it computes the loss of `step`."""
    forward, calls = model.forward, [0]

    @functools.wraps(forward)  # the Trainer looks at the signature
    def stopped(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == step:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(model, "forward", stopped)
    with pytest.raises(KeyboardInterrupt):
        yield
    monkeypatch.setattr(model, "forward", forward)


def test_the_adapter_has_the_reference_layout_and_its_loss_falls(folder: Path) -> None:
    log = run(str(tiny_runs.stage2_file(folder / "run", optim={"steps": 30, "warmup": 0.0})))
    adapter = Path(log["adapter"])
    names = {f"model.layers.{layer}.{name}" for layer in range(2) for name in PROJECTIONS}
    names |= {f"heads.heads.{i}.resblock.0.l_proj" for i in range(2)}
    tensors = load_file(adapter / WEIGHTS)
    assert tensors.keys() == {
        f"base_model.model.{name}.lora_{side}.weight" for name in names for side in "AB"
    }
    assert all(t.dtype is torch.float32 and t.any() for t in tensors.values())
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder / "stage1")
    assert (config["r"], config["lora_alpha"], config["modules_to_save"]) == (4, 2, None)
    assert (config["auto_mapping"], config["target_modules"]) == (None, sorted(TARGETS))
    written = json.loads((adapter / "training_log.json").read_text())
    assert written["adapter_parameters"] == sum(t.numel() for t in tensors.values())
    first, last = log["history"][0], log["history"][-1]
    parts = 0.1 * (first["loss_head_0"] + first["loss_head_1"]) + first["loss_next_token"]
    assert first["loss"] == pytest.approx(parts, abs=1e-3)
    for part in ("loss_next_token", "loss_head_0", "loss_head_1"):
        assert last[part] < first[part]
    before, after = written["held_out"]["stage1"], written["held_out"]["stage2"]
    assert after["next_token_loss"] < before["next_token_loss"]
    assert (adapter / "loss.png").stat().st_size > 0
    assert "vllm-lmtp merge" in (adapter / "README.md").read_text()
    assert str(folder) not in (adapter / "README.md").read_text() + json.dumps(written)


def test_only_lora_is_trained(folder: Path) -> None:
    model = load_leap_model(read_checkpoint(folder / "stage1"), 0.1, 1 << 20, torch.float32)
    adapted = attach_lora(model, LoraConfig(4, 2.0), "base")
    trained = {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in adapted.named_parameters() if ".lora_" in n}
    assert not any("lm_head" in name for name in trained)


def test_merging_equals_the_adapter_in_memory(folder: Path) -> None:
    """In float32: every tensor, the logits, and what each head's output matrix reads."""
    from vllm_lmtp.training.model.layout import load_backbone

    single = folder / "float32"
    single.mkdir()
    for file in (folder / "stage1").iterdir():
        (single / file.name).write_bytes(file.read_bytes())
    tensors = {n: t.float() for n, t in load_file(single / "model.safetensors").items()}
    from safetensors.torch import save_file

    save_file(tensors, single / "model.safetensors", metadata={"format": "pt"})
    model = load_leap_model(read_checkpoint(single), 0.1, 1 << 20, torch.float32)
    adapted = attach_lora(model, LoraConfig(4, 2.0), str(single)).eval()
    torch.manual_seed(9)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    (folder / "adapter").mkdir()
    save_adapter(adapted, folder / "adapter")
    merge(single, folder / "adapter", folder / "merged")

    ids = torch.arange(3, 40).unsqueeze(0)
    found = load_leap_model(read_checkpoint(folder / "merged"), 0.1, 1 << 20, torch.float32)
    plain = load_backbone(folder / "merged")
    with torch.no_grad():
        hidden, same = adapted.get_base_model().hidden_states(ids), found.hidden_states(ids)
        torch.testing.assert_close(same, hidden, rtol=0, atol=1e-5)
        logits = model.lm_head(hidden)
        torch.testing.assert_close(plain(ids).logits, logits, rtol=0, atol=1e-5)
        for i in range(2):
            here, there = model.heads[i].trunk(hidden), found.heads[i].trunk(hidden)
            torch.testing.assert_close(there, here, rtol=0, atol=1e-6)
    in_memory = adapted.merge_and_unload().state_dict()
    merged = load_file(folder / "merged" / "model.safetensors")
    assert merged.keys() == in_memory.keys()
    changed = 0
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, in_memory[name], rtol=0, atol=1e-6)
        changed += not torch.equal(tensor, tensors[name])
    assert changed == 2 * 7 + 2


@pytest.mark.parametrize("bf16", [False, True])
def test_an_interrupted_stage_2_ends_with_the_same_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    whole = run(str(tiny_runs.stage2_file(folder / "whole", optim={"bf16": bf16})))
    path = tiny_runs.stage2_file(folder / "parts", optim={"bf16": bf16})
    with _interrupted(monkeypatch, LeapModel, step=4):
        run(str(path))
    assert not (folder / "parts" / "adapter").exists()
    parts = run(str(path))
    one, two = (load_file(Path(log["adapter"]) / WEIGHTS) for log in (whole, parts))
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_an_interrupted_stage_1_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllm_lmtp.training.runs.report.STORY_TOKENS", 4)
    tiny_runs.save_backbone(tmp_path / "backbone")
    whole = run(str(tiny_runs.stage1_file(tmp_path / "whole")))
    path = tiny_runs.stage1_file(tmp_path / "parts")
    with _interrupted(monkeypatch, stage1.HeadsOnFrozenBackbone, step=4):
        run(str(path))
    assert not (tmp_path / "parts" / "model").exists()
    text = path.read_text()
    path.write_text(text.replace("lr: ", "lr: 1"))
    with pytest.raises(LMTPError, match=r"optim: found .*was begun"):
        run(str(path))
    path.write_text(text.replace("save_every: ", "save_every: 1"))  # which changes no weight
    parts = run(str(path))
    one, two = (load_file(Path(log["model"]) / "model.safetensors") for log in (whole, parts))
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_epochs_and_accumulation_make_the_steps(folder: Path) -> None:
    optim = {"steps": ..., "epochs": 2, "batch_rows": 3, "accumulate": 2}
    log = run(str(tiny_runs.stage2_file(folder / "run", optim=optim, limit=17)))
    assert log["data"]["train_texts"] == 13
    assert log["steps"] == 2 * 3  # 13 rows are three steps of at most 6
    assert log["history"][-1]["step"] == 6
    assert log["epochs"] == pytest.approx(2.77)


def test_stage_2_says_what_it_cannot_train(folder: Path) -> None:
    heads = folder / "heads"
    heads.mkdir()
    config = json.loads((folder / "stage1" / "config.json").read_text())
    (heads / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if k != "num_hidden_layers"})
    )
    from safetensors.torch import save_file

    tensors = load_file(folder / "stage1" / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if "heads." in n}, heads / "model.safetensors")
    with pytest.raises(LMTPError, match="heads without a backbone"):
        run(str(tiny_runs.stage2_file(folder / "run", stage1=str(heads))))
    (heads / "config.json").write_text(json.dumps(config))
    with pytest.raises(LMTPError, match="tokenizer: found none"):
        run(str(tiny_runs.stage2_file(folder / "run", stage1=str(heads))))
    for file in (folder / "stage1").glob("tokenizer*"):
        (heads / file.name).write_bytes(file.read_bytes())
    with pytest.raises(LMTPError, match="every tensor of the backbone"):
        run(str(tiny_runs.stage2_file(folder / "run", stage1=str(heads))))
    tiny_runs.save_backbone(folder / "backbone")
    with pytest.raises(LMTPError, match="heads"):
        run(str(tiny_runs.stage2_file(folder / "run", stage1=str(folder / "backbone"))))
    with pytest.raises(LMTPError, match="row_tokens"):
        run(str(tiny_runs.stage2_file(folder / "run", row_tokens=5)))
    assert not (folder / "run" / stage2.ADAPTER).exists()
