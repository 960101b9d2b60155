"""Training runs small enough for a unit test: a random model, random texts, a handful of steps."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from tests.support.training.kept import save_kept
from vllm_lmtp.formats.whole import whole_folder
from vllm_lmtp.training.data.tokenizer import EOS_ID, train_tokenizer
from vllm_lmtp.training.model.heads import LeapHeads
from vllm_lmtp.training.model.layout import load_backbone, write_plain, write_stage1
from vllm_lmtp.training.runs.backbone import build_model
from vllm_lmtp.training.settings.stages import HeadsConfig, ModelConfig

VOCAB, HIDDEN, POSITIONS = 262, 32, 64
OPTIM = {"lr": 0.01, "warmup": 0.1, "steps": 6, "batch_rows": 4, "save_every": 2}


def save_backbone(folder: Path) -> Path:
    """A random plain model with its tokenizer, bfloat16."""
    torch.manual_seed(3)
    with whole_folder(folder) as new:
        write_plain(new, build_model(ModelConfig(VOCAB, HIDDEN, 2, 2, 48, POSITIONS)), _tokenizer())
    return folder


def save_stage1(folder: Path, n_head: int = 2, stride: int = 2) -> Path:
    """A random model with random heads in the stage-1 layout, bfloat16."""
    torch.manual_seed(3)
    model = build_model(ModelConfig(VOCAB, HIDDEN, 2, 2, 48, POSITIONS)).eval()
    heads = LeapHeads(n_head, model.lm_head.weight.detach())
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    with whole_folder(folder) as new:
        write_stage1(new, model, heads, HeadsConfig(n_head, stride), _tokenizer(), "a/b")
    return folder


def texts(count: int, seed: int = 0) -> list[list[int]]:
    """Token ids of texts that go up by one each token, each from another on: learnable at every
    offset."""
    rng = random.Random(seed)
    starts = rng.sample(range(EOS_ID + 2, VOCAB - 40), count)
    return [[s + i for i in range(rng.randrange(9, 30))] for s in starts]


def save_dataset(folder: Path, count: int = 24) -> Path:
    """A data set as `vllm-lmtp distill` writes it; the first three tokens are the prompt."""
    from datasets import Dataset

    rows = [
        {"tokens": t, "prompt_tokens": 3, "source": "set", "temperature": 0.0, "ended": True}
        for t in texts(count)
    ]
    Dataset.from_list(rows).save_to_disk(folder)
    return folder


def save_own_text(folder: Path, count: int = 24) -> Path:
    """One finished shard of sampled texts, so that no engine is started."""
    folder.mkdir(parents=True)
    lines = [
        json.dumps({"text": f"text {i}", "ended": True, "temperature": 1.0, "tokens": tokens})
        for i, tokens in enumerate(texts(count))
    ]
    (folder / "shard-000.jsonl").write_text("\n".join(lines))
    return folder


def stage1_file(folder: Path, **changes: Any) -> Path:
    """The training file of a stage-1 run in `folder`, its texts sampled already."""
    save_own_text(folder / "own_text")
    own_text = {"temperatures": [1.0], "shards": 1, "texts_per_shard": 24}
    values = {
        "run": "s1",
        "model_name": "a/b",
        "backbone": str(folder.parent / "backbone"),
        "output": str(folder),
        "seed": 1,
        "threads": 1,
        "row_tokens": 32,
        "held_out": 4,
        "heads": {"n_head": 2, "skip_token": 2},
        "own_text": own_text | {"max_tokens": 40, "seed": 1},
        "optim": dict(OPTIM),
    }
    return _write(folder, values, changes)


def stage2_file(folder: Path, **changes: Any) -> Path:
    """The training file of a stage-2 run in `folder`."""
    values = {
        "run": "s2",
        "stage1": str(folder.parent / "stage1"),
        "dataset": str(folder.parent / "dataset"),
        "output": str(folder),
        "seed": 1,
        "threads": 1,
        "row_tokens": 32,
        "held_out": 4,
        "head_weight": 0.1,
        "lora": {"r": 4, "alpha": 2, "dropout": 0.1},
        "optim": dict(OPTIM),
    }
    return _write(folder, values, changes)


def heads_file(folder: Path, **changes: Any) -> Path:
    """The training file of a run on kept rows in `folder`, the answers distilled already."""
    values = {
        "run": "heads",
        "model_name": "a/b",
        "backbone": str(folder.parent / "backbone"),
        "dataset": str(folder.parent / "kept"),
        "output": str(folder),
        "seed": 1,
        "threads": 1,
        "held_out": 6,
        "heads": {"n_head": 2, "skip_token": 2},
        "draft_vocab": {"size": 128},
        "recurrent": {"rank": 8},
        "loss": {"ce": 0.1, "kl_div": 0.9},
        "optim": OPTIM | {"batch_rows": 32},
    }
    return _write(folder, values, changes)


def save_kept_answers(folder: Path, backbone: Path, count: int = 30) -> Path:
    """Texts as the backbone's answers, half of them greedy, with the rows that it has for them."""
    model = load_backbone(backbone, torch.float32)
    answers = texts(count)
    with torch.no_grad():
        rows = [model.model(torch.tensor([t])).last_hidden_state[0, 2:-1] for t in answers]
    prompts_and_answers = [(t[:3], t[3:], False) for t in answers]
    save_kept(folder, prompts_and_answers, HIDDEN, [0.0, 1.0] * (count // 2))
    bounds = torch.tensor([0, *map(len, rows)]).cumsum(0)
    file = folder / "shard-000.rows.safetensors"
    file.unlink()
    save_file({"rows": torch.cat(rows), "bounds": bounds}, file)
    return folder


def _write(folder: Path, values: dict[str, Any], changes: dict[str, Any]) -> Path:
    """Write a training file beside `folder`; mappings in `changes` are merged, `...` removes."""
    for key, value in changes.items():
        values[key] = values.get(key, {}) | value if isinstance(value, dict) else value
    values["optim"] = {k: v for k, v in values["optim"].items() if v is not ...}
    path = folder.with_name(f"{folder.name}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not ...}))
    return path


def _tokenizer() -> Any:
    return train_tokenizer(["Once upon a time there was a cat. "] * 9, VOCAB, POSITIONS)


def read_log(folder: Path) -> dict[str, Any]:
    """The training log of a finished run."""
    log: dict[str, Any] = json.loads((folder / "training_log.json").read_text())
    return log
