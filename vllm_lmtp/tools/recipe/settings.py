"""How heads are made for a model of some size on some machine: what the training files would say.

The numbers are those that won where they were compared (docs/distillation.md).
"""

from __future__ import annotations

import dataclasses
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
CPU_LOGITS = 3 << 20
"""Logits held at once on a CPU, whose caches hold about so many: a step of 512 positions takes 0.85
of the time that it takes with all of a place at once."""
LEARNING_RATE, WARMUP, BETA2 = 1e-3, 0.03, 0.95
LOSS = LossConfig(ce=0.1, kl_div=0.9)
TEMPERATURES = (0.0, 0.7, 1.0)
ALONE = 0.1
"""Share of the positions that also teach heads without their term, so that `lmtp_scorer: "none"`
has something to draft with."""
ANSWER_TOKENS, OPENING_TOKENS, QUESTION_TOKENS, PROMPT_TOKENS = 256, 24, 192, 512
INT8_FROM = 16 * 2**20
"""Bytes of the heads in bfloat16 from which they are stored in int8."""
OWN, CPU_TOKENS = 0.1, 4e10
"""Share of the time that prompts of the model's own may take on a CPU, and tokens a second of an
engine there times the model's parameters: 5.1e10 with SmolLM2 (378 of them), 3.5e10 with Gemma 3
270M (130). Unbounded, the latter's 7,680 openings took 25 minutes of an hour."""
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
    latter in tokens. parameters: about how many it has, of 16 bits. chat: whether it has a chat
    template. system: whether that takes a system message. gpu: whether there is one. cores: of the
    CPU. workers: engines that answer side by side.
    """

    name: str
    folder: Path
    vocab_size: int
    hidden_size: int
    context: int
    parameters: int
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


def own_prompts(subject: Subject, minutes: float) -> int:
    """How many prompts the model writes for a run of so many minutes."""
    wanted = minutes * (512 if subject.gpu else 32) * (1 if subject.chat else 4)
    if not subject.gpu:
        # Most questions end by themselves, long before they must; openings go on to the last token.
        each = QUESTION_TOKENS / 3 if subject.chat else OPENING_TOKENS
        tokens = OWN * 60 * minutes * subject.workers * CPU_TOKENS / subject.parameters
        wanted = min(wanted, tokens / each)
    return min(32768, max(256, round(wanted)))


def answers_run(
    subject: Subject,
    work: Path,
    minutes: float,
    given: Sequence[PromptSet],
    *,
    own: int,
    shards: int,
) -> DistillRun:
    """The model's own answers to prompts of its own and to those given.

    Args:
        minutes: of the whole. own: prompts of its own. shards: of answers.
    """
    prompt_tokens, long = min(PROMPT_TOKENS, subject.context // 3), minutes >= LONG
    self_written = SelfWritten(
        count=own,
        max_tokens=QUESTION_TOKENS if subject.chat else OPENING_TOKENS,
        seed=SEED,
        systems=() if not subject.chat else SYSTEMS if subject.system else ("",),
        temperature=0.8,  # and no top_p, for which a CPU sorts the vocabulary at every row
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
        self_written=self_written,
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
    rank: int = RANK,
    shared: bool = True,
    report_to: Sequence[str] = (),
) -> HeadsRun:
    """The training of heads and a recurrent term on these answers.

    Args:
        init: a folder of heads to go on from. rank, shared: of the term.
    """
    size = subject.draft_vocabulary
    heads = HeadsConfig(HEADS, STRIDE)
    width = (size or subject.vocab_size) * (HEADS * subject.hidden_size + 2 * rank)
    return HeadsRun(
        run="heads",
        model_name=name,
        output=str(work / "heads"),
        seed=SEED,
        threads=subject.cores,
        held_out=held_out,
        heads=heads if subject.gpu else dataclasses.replace(heads, logits_budget=CPU_LOGITS),
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
        recurrent=TermConfig(rank=rank, shared=shared, alone=ALONE),
        loss=LOSS,
        int8=2 * width > INT8_FROM,
        measured_tokens=measured_tokens,
        report_to=tuple(report_to),
    )
