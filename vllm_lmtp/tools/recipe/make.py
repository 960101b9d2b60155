"""The stages of `vllm-lmtp heads`, each of which an interrupted run finds done or goes on with."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from jinja2 import TemplateError

from vllm_lmtp.checkpoints.names import folder_or_id
from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import CONFIG_FILE, read_checkpoint, read_config
from vllm_lmtp.formats.files import fetch
from vllm_lmtp.formats.speculators import moved_target
from vllm_lmtp.formats.whole import room_for, whole_file, whole_folder, write_json
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.tools.recipe import plan as shares
from vllm_lmtp.tools.recipe.page import card, command, curves
from vllm_lmtp.tools.recipe.plan import Plan
from vllm_lmtp.tools.recipe.settings import (
    HEADS,
    POSITIONS,
    STRIDE,
    Subject,
    answers_run,
    heads_run,
    own_prompts,
)
from vllm_lmtp.tools.recipe.timing import (
    seconds_a_shard,
    seconds_a_step,
    seconds_a_token,
    seconds_to_start,
)
from vllm_lmtp.tools.scorers.confidence import calibrate_confidence, write_calibration
from vllm_lmtp.training.data.corpus import shard_paths
from vllm_lmtp.training.data.kept_rows import read_answers
from vllm_lmtp.training.data.records import split_held_out
from vllm_lmtp.training.data.tokenizer import load_tokenizer
from vllm_lmtp.training.devices import own_device
from vllm_lmtp.training.distillation.distill import distill
from vllm_lmtp.training.judging.tokens_a_step import HeldAnswers
from vllm_lmtp.training.model.layout import check_layout
from vllm_lmtp.training.model.read_heads import read_trained
from vllm_lmtp.training.model.recurrent import RecurrentTerm
from vllm_lmtp.training.runs.heads import prepare, train_heads
from vllm_lmtp.training.settings.distill import PromptSet
from vllm_lmtp.training.settings.heads import HeadsRun

log = logging.getLogger(__name__)
REPORT = "heads.json"
PROBED_HELD, PROBED_TOKENS = 8, 512


def make_heads(
    model: str,
    output: Path,
    minutes: float,
    prompts: Sequence[str] = (),
    report_to: Sequence[str] = (),
    init: str | None = None,
) -> dict[str, Any]:
    """Make heads for a model, in a folder that can be served.

    What it works with lies beside the output, in `<output>.work`; it may be deleted afterwards.

    Args:
        model: folder or Hugging Face id of a causal language model. minutes: to take in all.
        prompts: files of JSON lines with `prompt` or `messages`, or ids of such data sets.
        report_to: where transformers reports training to. init: folder or Hugging Face id of heads
        of three and stride 2 to go on from, with their draft vocabulary.

    Returns:
        The report: what was made of what, and tokens a step on held-out answers.

    Raises:
        LMTPError: the model, a file of prompts or the output is at fault.
    """
    output = Path(os.path.abspath(output))
    subject = subject_of(model)
    work = output.with_name(f"{output.name}.work")
    given, data = given_sets(prompts, work)
    begin = None if init is None else init_of(init, subject)
    asked = {
        "model": subject.name,
        "minutes": minutes,
        "prompts": [s.name for s in given],
        "init": None if begin is None else begin.name,
    }
    done = output / REPORT
    if done.is_file():
        found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        if found["plan"][shares.ASKED] == asked:
            return found
    if output.is_file() or (output.exists() and any(output.iterdir())):
        raise refuse(
            str(output),
            "OUTPUT",
            found="something else, or heads that were asked for otherwise",
            expected="a folder that is not there yet",
            remedy="name another one",
        )
    with room_for(output):
        plan = Plan(work / "plan.json", asked, 60 * minutes)
        _answers(plan, subject, work, minutes, given, data)
        run = _trained(plan, subject, work, output.name, begin, report_to)
        return _finish(plan, subject, work, output, run)


def subject_of(model: str) -> Subject:
    """A model and this machine.

    Raises:
        LMTPError: there is no such model, or it is no language model.
    """
    folder = fetch(folder_or_id(model))
    config = read_config(folder)
    config = config.get("text_config") or config
    sizes = [config.get(name) for name in ("vocab_size", "hidden_size")]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise refuse(
            str(folder / "config.json"),
            "vocab_size, hidden_size",
            found=sizes,
            expected="two numbers, as a causal language model states them",
            remedy="name a causal language model",
        )
    check_layout(folder)
    tokenizer = load_tokenizer(folder)
    chat, cores = bool(tokenizer.chat_template), len(os.sched_getaffinity(0))
    gpu = torch.cuda.is_available()
    return Subject(
        Path(model).name if Path(os.path.expanduser(model)).exists() else model,
        folder,
        int(sizes[0] or 0),
        int(sizes[1] or 0),
        int(config.get("max_position_embeddings") or 2**15),
        _weights(folder) // 2,
        chat=chat,
        system=chat and _takes_system(tokenizer),
        gpu=gpu,
        cores=cores,
        workers=1 if gpu else _engines(folder, cores),
    )


def init_of(heads: str, subject: Subject) -> Path:
    """The folder of heads to go on from.

    Raises:
        LMTPError: there are none, or they are another model's or have another layout.
    """
    folder = fetch(heads)
    start = read_checkpoint(folder)
    sizes = start.schedule.n_heads, start.schedule.stride, start.hidden_size, start.vocab_size
    fitting = HEADS, STRIDE, subject.hidden_size, subject.vocab_size
    if sizes != fitting:
        raise refuse(
            str(folder / "config.json"),
            "n_head, skip_token, hidden_size, vocab_size",
            found=sizes,
            expected=f"{fitting}, those of the recipe and the model",
            remedy="name others, or leave --init out: heads are made anew then",
        )
    return folder


def _term_of(init: Path) -> dict[str, Any]:
    """The size of a recurrent term that heads have already, which goes on as it is."""
    term = read_trained(init).term
    if not isinstance(term, RecurrentTerm):
        return {}
    return {"rank": term.embed.shape[1], "shared": term.output.dim() == 2}


def _takes_system(tokenizer: Any) -> bool:
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello."}]
    try:
        return "Be kind." in tokenizer.apply_chat_template(turns, tokenize=False)
    except (ValueError, TypeError, TemplateError):
        return False


def _weights(folder: Path) -> int:
    """Bytes of a model's files."""
    return max(2, sum(file.stat().st_size for file in folder.glob("*.safetensors")))


def _engines(folder: Path, cores: int) -> int:
    """As many as there are cores, each of which serves one, if so many models find room."""
    # In float32 where the file is bfloat16; beside them the program and a cache.
    room = psutil.virtual_memory().available / (2 * _weights(folder) + 3 * 2**30)
    return max(1, min(cores, int(room)))


def given_sets(prompts: Sequence[str], work: Path) -> tuple[list[PromptSet], Path]:
    """Prompts that a user gives, and the folder where copies of files lie, `<name>.jsonl`."""
    data, found = work / "given", []
    for number, words in enumerate(prompts):
        file = Path(os.path.expanduser(words))
        name = f"{number}-{file.stem}"
        if file.is_file():
            copy = data / f"{name}.jsonl"
            with room_for(copy):
                data.mkdir(parents=True, exist_ok=True)
                with whole_file(copy) as part:
                    shutil.copyfile(file, part)
        elif (
            words.count("/") != 1
            or words.startswith((".", "/", "~"))
            or words.endswith((".json", ".jsonl"))
        ):
            raise refuse(
                words,
                "--prompts",
                found="no such file",
                expected='JSON lines with "prompt" or "messages", or a data set\'s id',
                remedy="correct the path",
            )
        found.append(PromptSet(name=name, dataset=words, messages="messages"))
    return found, data


def _answers(
    plan: Plan,
    subject: Subject,
    work: Path,
    minutes: float,
    given: Sequence[PromptSet],
    data: Path,
) -> None:
    """The model's answers: a few shards that tell how long one takes, then the others."""
    workers = subject.workers
    # Kept, as all that depends on the machine: another number would be another run.
    own = plan.decide("own_prompts", lambda: own_prompts(subject, minutes))
    few = answers_run(subject, work, minutes, given, own=own, shards=2 * workers)
    answers, asked = Path(few.output) / "answers", command(plan.known[shares.ASKED], "OUTPUT")

    def enough() -> int:
        log.info("answers: a few, to see how long they take")
        distill(few, asked, data)
        first = shard_paths(answers)[: 2 * workers]
        most = plan.spent()
        taken = seconds_a_shard(first, workers, most)
        start = seconds_to_start(work / "answers" / "prompts.jsonl", first, taken, most)
        return shares.num_shards(plan.left(), start, taken, 2 * workers)

    count = plan.decide("shards", enough)
    log.info("answers: %d shards of %d", count, few.answers.texts_per_shard)
    distill(
        dataclasses.replace(few, answers=dataclasses.replace(few.answers, shards=count)),
        asked,
        data,
    )


def _trained(
    plan: Plan,
    subject: Subject,
    work: Path,
    name: str,
    init: Path | None,
    report_to: Sequence[str],
) -> HeadsRun:
    term = {} if init is None else _term_of(init)

    def settings(steps: int, held_out: int, measured_tokens: int) -> HeadsRun:
        return heads_run(
            subject,
            work,
            name,
            steps=steps,
            held_out=held_out,
            measured_tokens=measured_tokens,
            init=init,
            report_to=report_to,
            **term,
        )

    def enough() -> dict[str, int]:
        device = own_device()
        probe = settings(1, PROBED_HELD, PROBED_TOKENS)
        torch.set_num_threads(probe.threads)
        prepared = prepare(probe, device)
        answers = prepared.train + prepared.held
        tokens = sum(len(answer.answer) for answer in answers)
        if not plan.left():
            log.warning("the time is over before training: it will be short, and take longer")
        step = seconds_a_step(probe, prepared, device)
        token = seconds_a_token(prepared, device)
        judged = token if device == "cpu" else seconds_a_token(prepared, "cpu")
        chosen = shares.training(plan.left(), step, token, judged, tokens, POSITIONS)
        held_out = max(4, round(chosen["held_tokens"] * len(answers) / tokens))
        return chosen | {"held_out": min(held_out, len(answers) // 2)}

    chosen = plan.decide("training", enough)
    log.info("training: %d steps of %d positions", chosen["steps"], POSITIONS)
    run = settings(chosen["steps"], chosen["held_out"], chosen["measured_tokens"])
    if not (Path(run.output) / "model" / "config.json").is_file():
        train_heads(run, Path("heads"))
    return run


def _finish(
    plan: Plan, subject: Subject, work: Path, output: Path, run: HeadsRun
) -> dict[str, Any]:
    """Calibrate, judge, and put the folder together."""
    log.info("calibrating and judging")
    trained = Path(run.output) / "model"
    calibration = calibrate_confidence(
        trained, Path(run.dataset), plan.known["training"]["held_tokens"], run.held_out
    )
    calibrated = work / "calibrated"
    write_calibration(trained, calibrated, calibration, overwrite=True)
    report = {
        "model": subject.name,
        "plan": plan.known,
        "tokens_a_step": _judged(subject, run, calibrated),
        "copying": calibration.copying.facts(),
        "seconds": round(plan.spent()),
    }
    log_of_training = json.loads((trained / "training_log.json").read_text(encoding="utf-8"))
    log_of_training["command"] = command(plan.known[shares.ASKED], output.name)
    with whole_folder(output) as new:
        shutil.copytree(calibrated, new, dirs_exist_ok=True)
        config = read_config(calibrated)
        write_json(new / CONFIG_FILE, config | moved_target(config, calibrated, output))
        write_json(new / "training_log.json", log_of_training)
        write_json(new / REPORT, report)
        curves(log_of_training["history"], new / "curves.png")
        (new / "README.md").write_text(card(report, log_of_training), encoding="utf-8")
    return report


def _judged(subject: Subject, run: HeadsRun, folder: Path) -> dict[str, dict[str, float]]:
    """Tokens a step on held-out answers of each temperature, with and without the term."""
    end = load_tokenizer(subject.folder).eos_token_id
    answers = read_answers(Path(run.dataset), end)
    _, held = split_held_out(answers, run.held_out, lambda answer: answer.asked)
    measured = HeldAnswers(held, LeapSchedule(HEADS, STRIDE))
    whole = read_trained(folder)
    alone = dataclasses.replace(whole, term=None)
    with_term, without = measured.measure(whole), measured.measure(alone)
    return {
        f"{temperature:g}": {
            "without a scorer": without[temperature]["length"],
            "with the term": with_term[temperature]["length"],
            "positions": with_term[temperature]["positions"],
        }
        for temperature in with_term
    }
