"""Training runs small enough for a unit test: a random model, random texts, a handful of steps."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import yaml

from vllm_lmtp.formats.whole import whole_folder
from vllm_lmtp.training.data.tokenizer import EOS_ID, train_tokenizer
from vllm_lmtp.training.model.heads import LeapHeads
from vllm_lmtp.training.model.layout import write_plain, write_stage1
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
    """Token ids of texts that go up by one each token: learnable at every offset."""
    rng = random.Random(seed)
    starts = [rng.randrange(EOS_ID + 2, VOCAB - 40) for _ in range(count)]
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


def _write(folder: Path, values: dict[str, Any], changes: dict[str, Any]) -> Path:
    """Write a training file beside `folder`; mappings in `changes` are merged, `...` removes."""
    for key, value in changes.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
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
