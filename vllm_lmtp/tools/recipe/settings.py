"""How heads are made for a model of some size on some machine: what the training files would say.

The numbers are those that won where they were compared (docs/distillation.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_lmtp.training.settings.distill import DistillRun, PromptSet, SelfWritten
from vllm_lmtp.training.settings.heads import DraftVocabConfig, HeadsRun, TermConfig
from vllm_lmtp.training.settings.loss import LossConfig
from vllm_lmtp.training.settings.sample import SampleConfig
from vllm_lmtp.training.settings.stages import HeadsConfig, OptimConfig

SEED = 1
HEADS, STRIDE, RANK = 3, 2, 256
WHOLE_VOCABULARY, LEAST, MOST = 8192, 4096, 32768
"""Up to the first all tokens are drafted; beyond, a quarter of them within the other two."""
POSITIONS = 512
LEARNING_RATE, WARMUP, BETA2 = 1e-3, 0.03, 0.95
LOSS = LossConfig(ce=0.1, kl_div=0.9)
TEMPERATURES = (0.0, 0.7, 1.0)
ALONE = 0.1
"""Share of the positions that also teach heads without their term: what `doctor` and `calibrate`
tell a checkpoint's offset by."""
ANSWER_TOKENS, OPENING_TOKENS, QUESTION_TOKENS, PROMPT_TOKENS = 256, 24, 192, 512
INT8_FROM = 16 * 2**20
"""Bytes of the heads in bfloat16 from which they are stored in int8."""
LONG = 20.0
"""Minutes from which compiling the model pays on a GPU, and larger shards on a CPU: there a program
that vLLM compiled made 297 tokens a second where the plain one made 378 (SmolLM2, bfloat16)."""
SYSTEMS = (
    "You are a helpful assistant.",
    "You answer questions about facts, people, places and dates.",
    "You are a translator. The user gives a sentence and asks for its translation.",
    "You summarize articles which the user pastes in full.",
    "You answer a question from the passages that the user provides.",
    "You are a math tutor. The user gives a word problem with numbers.",
    "You are a programming assistant. The user asks for code or its explanation.",
    "You are a writing assistant. The user asks for a story, an email, a poem or a speech.",
    "You play any role the user asks for and reason about everyday situations.",
    "You extract and classify information from texts that the user gives, as lists or JSON.",
)


@dataclass(frozen=True)
class Subject:
    """A model and a machine.

    name: what the user calls the model. folder: of it. vocab_size, hidden_size, context: its; the
    latter in tokens. chat: whether it has a chat template. system: whether that takes a system
    message. gpu: whether there is one. cores: of the CPU. workers: engines that answer side by
    side.
    """

    name: str
    folder: Path
    vocab_size: int
    hidden_size: int
    context: int
    chat: bool
    system: bool
    gpu: bool
    cores: int
    workers: int

    @property
    def draft_vocabulary(self) -> int | None:
        """Tokens that heads can name; None for all."""
        if self.vocab_size <= WHOLE_VOCABULARY:
            return None
        return min(MOST, max(LEAST, self.vocab_size // 4))


def answers_run(
    subject: Subject, work: Path, minutes: float, given: Sequence[PromptSet], shards: int
) -> DistillRun:
    """The model's own answers to prompts of its own and to those given.

    Args:
        minutes: of the whole. shards: of answers.
    """
    prompt_tokens = min(PROMPT_TOKENS, subject.context // 3)
    share, long = round(minutes * (512 if subject.gpu else 32)), minutes >= LONG
    own = SelfWritten(
        count=min(32768, max(256, share if subject.chat else 4 * share)),
        max_tokens=QUESTION_TOKENS if subject.chat else OPENING_TOKENS,
        seed=SEED,
        systems=() if not subject.chat else SYSTEMS if subject.system else ("",),
        top_p=0.95,
    )
    answers = SampleConfig(
        temperatures=TEMPERATURES,
        shards=shards,
        texts_per_shard=256 if subject.gpu else 96 if long else 32,
        max_tokens=min(ANSWER_TOKENS, subject.context - prompt_tokens),
        seed=1000 * SEED,
        batch=256 if subject.gpu else 48 if long else 32,
        kv_cache_gib=1,
        workers=subject.workers,
        keep_rows=True,
        eager=not (subject.gpu and long),
    )
    return DistillRun(
        run="distill",
        output=str(work / "answers"),
        seed=SEED,
        chat=subject.chat,
        answers=answers,
        prompts=tuple(given),
        self_written=own,
        model=str(subject.folder),
        max_prompt_tokens=prompt_tokens,
    )


def heads_run(
    subject: Subject,
    work: Path,
    name: str,
    *,
    steps: int,
    held_out: int,
    measured_tokens: int,
    init: Path | None = None,
    report_to: Sequence[str] = (),
) -> HeadsRun:
    """The training of heads and a recurrent term on these answers.

    Args:
        init: a folder of heads to go on from.
    """
    size = subject.draft_vocabulary
    width = (size or subject.vocab_size) * (HEADS * subject.hidden_size + 2 * RANK)
    return HeadsRun(
        run="heads",
        model_name=name,
        output=str(work / "heads"),
        seed=SEED,
        threads=subject.cores,
        held_out=held_out,
        heads=HeadsConfig(HEADS, STRIDE),
        optim=OptimConfig(
            lr=LEARNING_RATE,
            warmup=WARMUP,
            batch_rows=POSITIONS,
            save_every=max(1, -(-steps // 10)),
            steps=steps,
            beta2=BETA2,
            bf16=True,
        ),
        dataset=str(work / "answers" / "dataset"),
        backbone=str(subject.folder),
        draft_vocab=None if size is None or init else DraftVocabConfig(size=size),
        init=None if init is None else str(init),
        recurrent=TermConfig(rank=RANK, alone=ALONE),
        loss=LOSS,
        int8=2 * width > INT8_FROM,
        measured_tokens=measured_tokens,
        report_to=tuple(report_to),
    )
