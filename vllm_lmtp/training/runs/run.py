"""The entry of `vllm-lmtp train`: read a training file and run what it describes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.whole import room_for
from vllm_lmtp.training.devices import world_size
from vllm_lmtp.training.packages import TRAINING, check_installed, check_reporting
from vllm_lmtp.training.settings.distill import DistillRun
from vllm_lmtp.training.settings.heads import HeadsRun
from vllm_lmtp.training.settings.read_run import read_run
from vllm_lmtp.training.settings.stages import BackboneRun, Stage1Run, Stage2Run


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
            stage 1, where a model learns from itself, the backbone; in stage 2 the stage-1 folder.
        dataset: folder of distilled answers, instead of the file's `dataset`.

    Returns:
        The training log, with "model", the folder of the trained checkpoint, or "adapter".

    Raises:
        LMTPError: the file, the teacher or a sampled text is at fault, a package is missing, or
            the output cannot be written; what earlier runs wrote is then still whole.
    """
    path = Path(config_path)
    config = read_run(path)
    if output is not None:
        config = dataclasses.replace(config, output=output)
    check_installed(*TRAINING, *(("peft",) if isinstance(config, Stage2Run) else ()))
    if isinstance(config, DistillRun):
        raise refuse(
            str(path),
            "run",
            found="distill",
            expected="a training",
            remedy=f"vllm-lmtp distill {path}",
        )
    if dataset is not None and (
        isinstance(config, BackboneRun)
        or (isinstance(config, Stage1Run) and config.dataset is None)
    ):
        raise refuse(
            str(path),
            "--dataset",
            found=f"one for run: {config.run} without `dataset`",
            expected="a run that learns from one",
            remedy="leave it out: this run samples its own texts",
        )
    with room_for(Path(config.output)):
        if isinstance(config, BackboneRun):
            return _backbone(dataclasses.replace(config, teacher=teacher or config.teacher), path)
        if isinstance(config, Stage1Run):
            config = dataclasses.replace(
                config, backbone=teacher or config.backbone, dataset=dataset or config.dataset
            )
            return _stage1(config, path)
        if isinstance(config, HeadsRun):
            check_reporting(config.report_to)
            config = dataclasses.replace(
                config, backbone=teacher or config.backbone, dataset=dataset or config.dataset
            )
            return _heads(config, path)
        config = dataclasses.replace(
            config, stage1=teacher or config.stage1, dataset=dataset or config.dataset
        )
        return _stage2(config, path)


def _backbone(config: BackboneRun, path: Path) -> dict[str, Any]:
    from vllm_lmtp.training.distillation.sample import missing_shards, sample_in_subprocess
    from vllm_lmtp.training.runs.backbone import train_backbone

    if world_size() > 1:
        raise refuse(
            "accelerate launch",
            "--num_processes",
            found=world_size(),
            expected="1: backbones of this size are trained by one process",
            remedy=f"vllm-lmtp train {path}",
        )
    corpus = Path(config.output) / "corpus"
    if config.teacher is not None:
        sample_in_subprocess(_folder(config.teacher, "teacher", path), corpus, config.corpus)
    elif missing_shards(corpus, config.corpus):
        raise refuse(
            str(path),
            "teacher",
            found="none, and the corpus is not sampled yet",
            expected="the folder of a causal language model",
            remedy="name one with --teacher FOLDER",
        )
    return train_backbone(config, path) | {"model": str(Path(config.output) / "model")}


def _stage1(config: Stage1Run, path: Path) -> dict[str, Any]:
    folder = _folder(config.backbone, "backbone", path)
    from vllm_lmtp.training.runs.stage1 import train_stage1

    log = train_stage1(dataclasses.replace(config, backbone=str(folder)), path)
    return log | {"model": str(Path(config.output) / "model")}


def _heads(config: HeadsRun, path: Path) -> dict[str, Any]:
    folder = _folder(config.backbone or "none", "backbone", path)
    from vllm_lmtp.training.runs.heads import train_heads

    log = train_heads(dataclasses.replace(config, backbone=str(folder)), path)
    return log | {"model": str(Path(config.output) / "model")}


def _stage2(config: Stage2Run, path: Path) -> dict[str, Any]:
    folder = _folder(config.stage1, "stage1", path)
    from vllm_lmtp.training.runs.stage2 import ADAPTER, train_stage2

    log = train_stage2(config, folder, path)
    return log | {"adapter": str(Path(config.output) / ADAPTER)}


def _folder(model: str, field: str, path: Path) -> Path:
    """The local folder of a model that a training file names; a Hugging Face id is fetched."""
    folder = Path(os.path.expanduser(model))
    if not folder.is_dir() and model.count("/") == 1 and not model.startswith((".", "~", "/")):
        from vllm_lmtp.formats.files import fetch

        return fetch(model)
    if not (folder / "config.json").is_file():
        raise refuse(
            str(path),
            field,
            found=f"{model}, which holds no config.json",
            expected="the folder of a causal language model, or its Hugging Face id",
            remedy="correct the path; relative paths are taken from the current directory",
        )
    return folder
