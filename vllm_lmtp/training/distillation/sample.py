"""Sample texts from any causal language model through vLLM's offline engine, in JSONL shards.

A shard appears only when it is whole, and an existing shard is never sampled again, so an
interrupted run goes on where it stopped. Shard j uses seed `seed + j`, whichever shards were made
before it and whichever worker makes it.

Run as a program, in a process of its own, because an engine keeps its threads and its memory until
its process ends:

    python -m vllm_lmtp.training.distillation.sample MODEL OUTPUT SETTINGS.yaml WORKER
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.whole import numbered_lines, room_for, write_json, write_text
from vllm_lmtp.training.devices import alone, in_bfloat16, own_device
from vllm_lmtp.training.distillation.prompts import begin_text
from vllm_lmtp.training.distillation.recorder import CLASS_PATH as RECORDER
from vllm_lmtp.training.settings.parse import parse, read_yaml
from vllm_lmtp.training.settings.sample import SampleConfig

log = logging.getLogger(__name__)
PROVENANCE = "provenance.json"
ROWS_SUFFIX = ".rows.safetensors"
# Settings that may change between runs of one folder: they do not change what a text says.
_NOT_IN_PROVENANCE = ("shards", "batch", "kv_cache_gib", "workers", "keep_rows", "eager")


def dtype_here(dtype: str) -> str:
    """The dtype in which a model answers on this machine, which may have no bfloat16."""
    return "float32" if dtype == "bfloat16" and not in_bfloat16(True) else dtype


def sample_in_subprocess(model: Path, output: Path, config: SampleConfig) -> None:
    """Run `sample` in processes of its own; returns at once when every shard exists.

    Raises:
        LMTPError: a process failed, or the folder holds texts of other settings.
    """
    output.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(config, dtype=dtype_here(config.dtype))
    check_provenance(model, output, config)
    if not missing_shards(output, config):
        return
    settings = output / "settings.yaml"
    # JSON is YAML too, and needs no second writer.
    write_json(settings, vars(config) | {"temperatures": list(config.temperatures)})
    program = [
        sys.executable,
        "-m",
        "vllm_lmtp.training.distillation.sample",
        str(model),
        str(output),
    ]
    processes = [
        subprocess.Popen([*program, str(settings), str(worker)], env=_environment(config))
        for worker in range(config.workers)
    ]
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.terminate()
    if any(codes) or missing_shards(output, config):
        raise refuse(
            "sampling",
            "exit code",
            found=", ".join(map(str, codes)),
            expected="0 and every shard written",
            remedy="read the engine's message above; a second run keeps the finished shards",
        )


def sample(model: Path, output: Path, config: SampleConfig, worker: int = 0) -> None:
    """Write the missing shards of `config` that are `worker`'s to `output`.

    A line holds "text" (stripped, without the prompt), "ended" (whether the model ended it),
    "end_token" (with which token, or null), "temperature", "tokens" (prompt and text as ids,
    without the end token), "prompt", "prompt_tokens" (how many of the tokens are the prompt's) and
    "source".

    Raises:
        LMTPError: the prompts cannot be read, or the folder holds texts of other settings.
    """
    from vllm import LLM, SamplingParams

    from vllm_lmtp.training.data.tokenizer import load_tokenizer

    check_provenance(model, output, config)
    prompts = _prompts(config, load_tokenizer(model))
    engine = LLM(
        str(model),
        dtype=config.dtype,
        max_num_seqs=config.batch,
        enforce_eager=config.eager,
        max_model_len=max(len(p.tokens) for p in prompts) + config.max_tokens,
        enable_prefix_caching=False,
        # A seeded request whose prompt comes in chunks stops vLLM's CPU engine.
        enable_chunked_prefill=False,
        worker_extension_cls=RECORDER if config.keep_rows else "",
        seed=config.seed,
    )
    if config.keep_rows:
        engine.collective_rpc("lmtp_record_rows")
    started, made = time.monotonic(), 0
    mine = [s for s in missing_shards(output, config) if s % config.workers == worker]
    for done, shard in enumerate(mine, 1):
        temperature = config.temperatures[shard % len(config.temperatures)]
        params = [
            SamplingParams(
                temperature=temperature,
                top_p=config.top_p,
                max_tokens=config.max_tokens,
                stop_token_ids=list(config.stop_token_ids),
                # One seed per text: the result must not depend on how the engine batches them.
                seed=(config.seed + shard) * 1_000_003 + number,
            )
            for number in range(config.texts_per_shard)
        ]
        first = shard * config.texts_per_shard
        chosen = [prompts[(first + i) % len(prompts)] for i in range(config.texts_per_shard)]
        results = engine.generate(
            [{"prompt_token_ids": list(p.tokens)} for p in chosen], params, use_tqdm=False
        )
        path = output / shard_name(shard)
        if config.keep_rows:
            sampled = [len(r.outputs[0].token_ids) for r in results]
            where = str(path.with_suffix(ROWS_SUFFIX))
            engine.collective_rpc(
                "lmtp_write_rows", args=(where, [r.request_id for r in results], sampled)
            )
        records = [
            _record(prompt, result.outputs[0], temperature)
            for prompt, result in zip(chosen, results, strict=True)
        ]
        made += sum(len(r["tokens"]) - r["prompt_tokens"] for r in records)
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        with room_for(path):
            write_text(path, "".join(lines))
        rate = made / (time.monotonic() - started)
        left = (time.monotonic() - started) / done * (len(mine) - done)
        log.info(
            "worker %d: shard %d done, %d of its %d; %.0f tokens/s, about %.0f min left",
            worker,
            shard,
            done,
            len(mine),
            rate,
            left / 60,
        )


def shard_name(shard: int) -> str:
    """File name of a finished shard."""
    return f"shard-{shard:03d}.jsonl"


def missing_shards(output: Path, config: SampleConfig) -> list[int]:
    """Shards that do not exist yet."""
    return [j for j in range(config.shards) if not (output / shard_name(j)).exists()]


def check_provenance(model: Path, output: Path, config: SampleConfig) -> None:
    """Write how a folder's texts are made, or compare with what was written before.

    The number of shards may differ, so that a corpus can grow. A folder with shards but without
    the file is taken as it is: its texts were brought from elsewhere.

    Raises:
        LMTPError: the folder holds texts of another model or of other settings.
    """
    path = output / PROVENANCE
    settings = {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in vars(config).items()
        if k not in _NOT_IN_PROVENANCE
    }
    if config.prompts is not None:
        settings["prompts"] = Path(config.prompts).name
    facts = {"model": _identity(model), "settings": settings}
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        for field, value in facts.items():
            if before.get(field) != value:
                raise refuse(
                    str(path),
                    field,
                    found=before.get(field),
                    expected=f"{value}, as the training file states",
                    remedy="name another output folder, or delete this one to sample anew",
                )
    elif not any(output.glob("shard-*.jsonl")):
        versions = {name: version(name) for name in ("torch", "transformers")}
        write_json(path, facts | {"versions": versions})


@dataclass(frozen=True)
class _Prompt:
    text: str
    source: str
    tokens: tuple[int, ...]


def _environment(config: SampleConfig) -> dict[str, str]:
    environment = alone(os.environ) | {"VLLM_CPU_KVCACHE_SPACE": str(config.kv_cache_gib)}
    if own_device() == "cpu":
        # An engine core of its own begins before all texts of a shard are there, with as many as
        # its clock lets in: other shapes, other last bits, and now and then another token.
        environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    if config.workers > 1:
        environment |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return environment


def _identity(model: Path) -> dict[str, Any]:
    """A model by its folder name and the sizes of its weight files: no path of any machine."""
    weights = sorted(model.glob("*.safetensors"))
    return {"name": model.resolve().name, "weights": {p.name: p.stat().st_size for p in weights}}


def _prompts(config: SampleConfig, tokenizer: Any) -> list[_Prompt]:
    """The prompts file, a JSON object a line: "prompt", and where known "tokens" and "source"."""
    if config.prompts is None:
        return [_Prompt("", "", tuple(begin_text(tokenizer)))]
    prompts = []
    if not Path(config.prompts).is_file():
        raise refuse(
            config.prompts,
            "prompts",
            found="no such file",
            expected="a JSON object a line",
            remedy="correct the path, or leave the field out for texts that begin from nothing",
        )
    for number, line in numbered_lines(Path(config.prompts)):
        try:
            row = json.loads(line)
            text = str(row["prompt"])
            tokens = row.get("tokens") or tokenizer.encode(text)
            prompts.append(_Prompt(text, str(row.get("source", "")), tuple(map(int, tokens))))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise refuse(
                f"{config.prompts}:{number}",
                "prompt",
                found=repr(line[:60]),
                expected='a JSON object with "prompt"',
                remedy="write one such object a line",
            ) from error
    if not prompts:
        raise refuse(
            config.prompts,
            "prompts",
            found="an empty file",
            expected="a JSON object a line",
            remedy="write prompts, or leave the field out for texts that start from BOS",
        )
    return prompts


def _record(prompt: _Prompt, output: Any, temperature: float) -> dict[str, Any]:
    ended = output.finish_reason == "stop"
    # vLLM keeps the token that ended the text; training rows add EOS themselves.
    ids = list(output.token_ids)[:-1] if ended else list(output.token_ids)
    return {
        "text": output.text.strip(),
        "ended": ended,
        "end_token": output.token_ids[-1] if ended else None,
        "temperature": temperature,
        "prompt": prompt.text,
        "source": prompt.source,
        "prompt_tokens": len(prompt.tokens),
        "tokens": [*prompt.tokens, *ids],
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    _settings = Path(sys.argv[3])
    sample(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        parse(SampleConfig, read_yaml(_settings), str(_settings)),
        int(sys.argv[4]),
    )
