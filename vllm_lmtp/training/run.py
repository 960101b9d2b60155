"""The entry of `vllm-lmtp train`: read a training file and run what it describes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.training.config import BackboneRun
from vllm_lmtp.training.distill_config import DistillRun
from vllm_lmtp.training.heads_config import HeadsRun
from vllm_lmtp.training.read_run import read_run


def run(
    config_path: str,
    *,
    output: str | None = None,
    teacher: str | None = None,
    dataset: str | None = None,
) -> dict[str, Any]:
    """Run one training file of configs/train/.

    Args:
        config_path: the YAML file.
        output: folder of the run, instead of the file's `output`.
        teacher: folder of the model whose texts are learnt: the teacher of a backbone run; in
            stage 1, where a model learns from itself, the backbone.
        dataset: folder of distilled answers, instead of the file's `dataset`.

    Returns:
        The training log, with "model", the folder of the trained checkpoint.

    Raises:
        LMTPError: the file, the teacher or a sampled text is at fault, or a package is missing.
    """
    path = Path(config_path)
    config = read_run(path)
    if output is not None:
        config = dataclasses.replace(config, output=output)
    _check_packages()
    if isinstance(config, DistillRun):
        raise refuse(
            str(path),
            "run",
            found="distill",
            expected="a training",
            remedy=f"vllm-lmtp distill {path}",
        )
    if isinstance(config, BackboneRun):
        config = dataclasses.replace(config, teacher=teacher or config.teacher)
        log = _backbone(config, path)
    elif isinstance(config, HeadsRun):
        config = dataclasses.replace(
            config, backbone=teacher or config.backbone, dataset=dataset or config.dataset
        )
        _check_folder(config.backbone or "none", "backbone", path)
        from vllm_lmtp.training.heads_run import train_heads

        log = train_heads(config, path)
    else:
        config = dataclasses.replace(config, backbone=teacher or config.backbone)
        _check_folder(config.backbone, "backbone", path)
        from vllm_lmtp.training.stage1 import train_stage1

        log = train_stage1(config, path)
    return log | {"model": str(Path(config.output) / "model")}


def _backbone(config: BackboneRun, path: Path) -> dict[str, Any]:
    from vllm_lmtp.training.backbone import train_backbone
    from vllm_lmtp.training.sample import missing_shards, sample_in_subprocess

    corpus = Path(config.output) / "corpus"
    if config.teacher is not None:
        _check_folder(config.teacher, "teacher", path)
        sample_in_subprocess(Path(config.teacher), corpus, config.corpus)
    elif missing_shards(corpus, config.corpus):
        raise refuse(
            str(path),
            "teacher",
            found="none, and the corpus is not sampled yet",
            expected="the folder of a causal language model",
            remedy="name one with --teacher FOLDER",
        )
    return train_backbone(config, path)


def _check_folder(folder: str, field: str, path: Path) -> None:
    if not (Path(folder) / "config.json").is_file():
        raise refuse(
            str(path),
            field,
            found=f"{folder}, which holds no config.json",
            expected="the folder of a causal language model",
            remedy="correct the path; relative paths are taken from the current directory",
        )


def _check_packages() -> None:
    from importlib.util import find_spec

    missing = [n for n in ("torch", "transformers", "accelerate", "matplotlib") if not find_spec(n)]
    if missing:
        raise refuse(
            "Python environment",
            "packages",
            found=f"no {', '.join(missing)}",
            expected="what training needs",
            remedy="pip install 'vllm-lmtp[train]'",
        )
