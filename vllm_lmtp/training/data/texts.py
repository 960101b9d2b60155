"""The texts a run learns from: a distilled data set, or what the model writes itself."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from vllm_lmtp.formats.whole import whole_folder
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.training.data.corpus import read_corpus, shard_paths
from vllm_lmtp.training.data.records import Record, Row, answer_rows, read_dataset, split_held_out
from vllm_lmtp.training.devices import main_first
from vllm_lmtp.training.distillation.sample import missing_shards, sample_in_subprocess
from vllm_lmtp.training.model.layout import load_backbone, write_plain
from vllm_lmtp.training.settings.sample import SampleConfig
from vllm_lmtp.training.settings.stages import Stage1Run, Stage2Run

OWN_TEXT = "own_text"


def read_texts(
    run: Stage1Run | Stage2Run, model: Path, tokenizer: Any, schedule: LeapSchedule
) -> tuple[list[Row], list[Row], dict[str, Any]]:
    """(training rows, held-out rows, where they are from and how many).

    Own texts are sampled by the main process alone, where there are several.

    Args:
        model: the folder whose backbone writes its own texts, where `run` asks for them.
        schedule: of the heads; rows that teach none of them are left out.

    Raises:
        LMTPError: no such data set, no answers in it, or none that is long enough.
    """
    if run.dataset is not None:
        records = read_dataset(Path(run.dataset), "dataset")
        counts: dict[str, Any] = {"dataset": Path(run.dataset).resolve().parent.name}
    else:
        assert run.own_text is not None
        records, counts = _own_texts(run.own_text, Path(run.output), model, tokenizer)
    if run.limit is not None and run.limit < len(records):
        chosen = sorted(random.Random(run.seed).sample(range(len(records)), run.limit))
        records = [records[i] for i in chosen]
    offset = schedule.offset_of_head(schedule.n_heads - 1)
    end = tokenizer.eos_token_id
    train, held = (
        answer_rows(part, end, run.row_tokens, offset, where)
        for part, where in zip(
            split_held_out(records, run.held_out, lambda r: r.prompt),
            ("training texts", "held-out texts"),
            strict=True,
        )
    )
    tokens = sum(len(row.tokens) for row in train)
    return train, held, counts | {"train_texts": len(train), "train_tokens": tokens}


def _own_texts(
    config: SampleConfig, output: Path, model: Path, tokenizer: Any
) -> tuple[list[Record], dict[str, Any]]:
    def sample() -> None:
        backbone = output / "backbone"
        if not backbone.is_dir():
            with whole_folder(backbone) as folder:
                write_plain(folder, load_backbone(model), tokenizer)
        sample_in_subprocess(backbone, output / OWN_TEXT, config)

    main_first(sample, lambda: not missing_shards(output / OWN_TEXT, config))
    corpus = read_corpus(shard_paths(output / OWN_TEXT))
    records = [
        Record(
            r["tokens"],
            r.get("prompt_tokens", 0),
            OWN_TEXT,
            r["temperature"],
            r["ended"],
            r.get("end_token"),
        )
        for r in corpus.texts
    ]
    return records, dict(corpus.counts)
