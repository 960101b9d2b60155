"""Self-distillation: the target answers prompts through vLLM, and heads learn from its answers.

Four steps, each of which an interrupted run finds done: the model writes prompts of its own, all
prompts are shuffled into one list, the model answers them in shards, and what is kept of the
answers becomes a `datasets` folder with its provenance. Nothing is ever answered twice.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vllm_lmtp import __version__
from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.whole import room_for, whole_folder, write_json, write_text
from vllm_lmtp.training.data.corpus import read_records, shard_paths
from vllm_lmtp.training.data.tokenizer import load_tokenizer
from vllm_lmtp.training.distillation.answers import keep_answers
from vllm_lmtp.training.distillation.prompts import (
    NOTHING,
    Prompt,
    encode,
    end_of_turn,
    openings,
    read_prompts,
    written_prompts,
)
from vllm_lmtp.training.distillation.sample import ROWS_SUFFIX, dtype_here, sample_in_subprocess
from vllm_lmtp.training.resume import must_be_as_begun
from vllm_lmtp.training.settings.distill import DistillRun, SelfWritten
from vllm_lmtp.training.settings.sample import SampleConfig

log = logging.getLogger(__name__)
DATASET = "dataset"
PROVENANCE_FILE = "lmtp_provenance.json"
OF_ANSWERS = ("answers", "min_answer_tokens", "keep_unended")
"""Fields that prompts do not depend on."""


def distill(run: DistillRun, command: str, data: Path | None = None) -> dict[str, Any]:
    """Answer the prompts of `run` and write its `dataset` folder.

    Args:
        run: with `model` set. config_path: named in the provenance.
        data: folder with local copies of the prompt sets.

    Returns:
        The provenance, with "dataset", the folder.

    Raises:
        LMTPError: a prompt set or the model cannot be read, no answer is kept, or the output cannot
            be written; what earlier runs wrote is then still whole.
    """
    with room_for(Path(run.output)):
        return _distill(run, command, data)


def _distill(run: DistillRun, command: str, data: Path | None) -> dict[str, Any]:
    assert run.model is not None
    model, output = Path(run.model), Path(run.output)
    tokenizer = load_tokenizer(model)
    prompts_file, counts = _prompts_file(run, model, output, tokenizer, data)
    dtype = dtype_here(run.answers.dtype)
    run = dataclasses.replace(run, answers=dataclasses.replace(run.answers, dtype=dtype))
    answers = dataclasses.replace(run.answers, prompts=str(prompts_file))
    sample_in_subprocess(model, output / "answers", answers)
    kept, of_answers = keep_answers(
        shard_paths(output / "answers"), run.min_answer_tokens, run.keep_unended
    )
    provenance = {
        "command": command,
        "config": dataclasses.asdict(run) | {"model": model.resolve().name, "output": output.name},
        "prompts": counts,
        "answers": of_answers,
        "versions": {"vllm-lmtp": __version__}
        | {name: version(name) for name in ("torch", "transformers", "datasets")},
    }
    _write_dataset(output / DATASET, kept, provenance, output / "answers")
    return provenance | {"dataset": str(output / DATASET)}


def _prompts_file(
    run: DistillRun, model: Path, output: Path, tokenizer: Any, data: Path | None
) -> tuple[Path, dict[str, Any]]:
    """The shuffled prompts with their ids, written once, and counts by source."""
    path, counts_path = output / "prompts.jsonl", output / "prompts.json"
    begun = path.is_file() and counts_path.is_file()
    must_be_as_begun(output / "prompts_settings.json", run, begun, OF_ANSWERS)
    if begun:
        return path, json.loads(counts_path.read_text(encoding="utf-8"))
    prompts: list[Prompt] = []
    for prompt_set in run.prompts:
        prompts += read_prompts(prompt_set, data, run.seed)
    prompts += [Prompt("", NOTHING)] * run.from_nothing
    counts: dict[str, Any] = {}
    if run.self_written is not None:
        own, counts["self_written"] = _self_written(
            run.self_written, run.answers, model, output / "own_prompts", tokenizer
        )
        prompts += own
    random.Random(run.seed).shuffle(prompts)
    rows = [(p, encode(p, tokenizer, run.chat)) for p in prompts]
    short = [(p, ids) for p, ids in rows if len(ids) <= run.max_prompt_tokens]
    if not short:
        raise refuse(
            "training file",
            "max_prompt_tokens",
            found=run.max_prompt_tokens,
            expected=f"at least {min(len(ids) for _, ids in rows)}, the shortest prompt",
            remedy="raise it",
        )
    counts["too_long"] = len(rows) - len(short)
    counts["by_source"] = dict(Counter(p.source for p, _ in short))
    lines = [
        json.dumps({"prompt": p.text, "source": p.source, "tokens": ids}, ensure_ascii=False)
        for p, ids in short
    ]
    write_json(counts_path, counts)
    write_text(path, "\n".join(lines) + "\n")
    log.info("%d prompts: %s", len(short), counts["by_source"])
    return path, counts


def _self_written(
    config: SelfWritten, answers: SampleConfig, model: Path, folder: Path, tokenizer: Any
) -> tuple[list[Prompt], dict[str, int]]:
    folder.mkdir(parents=True, exist_ok=True)
    asked = folder / "openings.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in openings(config, tokenizer)]
    write_text(asked, "\n".join(lines) + "\n")
    # As many as there are of answers, so that workers end at about the same time.
    shards = -(-config.count // answers.texts_per_shard)
    settings = dataclasses.replace(
        answers,
        temperatures=(config.temperature,),
        shards=shards,
        texts_per_shard=-(-config.count // shards),
        max_tokens=config.max_tokens,
        seed=config.seed,
        prompts=str(asked),
        stop_token_ids=(end_of_turn(tokenizer),) if config.systems else (),
        top_p=config.top_p,
    )
    sample_in_subprocess(model, folder, settings)
    return written_prompts(list(read_records(shard_paths(folder))), whole=bool(config.systems))


def _write_dataset(
    folder: Path, records: Sequence[dict[str, Any]], provenance: dict[str, Any], answers: Path
) -> None:
    from datasets import Dataset

    with whole_folder(folder) as new:
        Dataset.from_list(list(records)).save_to_disk(new)
        for shard in sorted({str(r["shard"]) for r in records}):
            rows = answers / f"{shard}{ROWS_SUFFIX}"
            if rows.is_file():
                _share(rows, new / rows.name)
        write_json(new / PROVENANCE_FILE, provenance)


def _share(rows: Path, copy: Path) -> None:
    """A link, since rows are many times the size of everything else; not all disks have links."""
    try:
        os.link(rows, copy)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        shutil.copyfile(rows, copy)
