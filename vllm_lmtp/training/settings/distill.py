"""The fields of the files in configs/train/distill/: which prompts are answered, and how."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_lmtp.training.settings.sample import SampleConfig


@dataclass(frozen=True)
class PromptSet:
    """A data set whose rows become prompts.

    name: of the set in counts and provenance, and the stem of its file, `<name>.jsonl`, in the
    folder given with `--data`. dataset, subset, split: its public id for `datasets`, used where
    that folder has no such file. template: the prompt, a `str.format` text over a row's fields.
    messages: the field of rows that hold a conversation instead, as chat data has them: a list of
    {"role", "content"}; the model answers the user's last turn.
    times: how often each prompt is answered. limit: rows drawn at random, or null for all.
    besides: leave out the rows that a run with this `limit` and the same seed drew, for prompts
    that heads did not learn from. number, first, last: keep only rows whose field `number` lies
    in first..last.
    """

    name: str
    dataset: str
    template: str = "{prompt}"
    messages: str | None = None
    subset: str | None = None
    split: str = "train"
    times: int = 1
    limit: int | None = None
    besides: int | None = None
    number: str | None = None
    first: int = 0
    last: int = 0

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        wrong = {}
        if self.times < 1:
            wrong["times"] = "at least 1"
        if self.limit is not None and self.limit < 1:
            wrong["limit"] = "at least 1, or null"
        if self.besides is not None and self.besides < 1:
            wrong["besides"] = "at least 1, or null"
        if self.number is not None and self.last < self.first:
            wrong["last"] = f"at least first ({self.first})"
        return wrong


@dataclass(frozen=True)
class SelfWritten:
    """Prompts that the model writes itself.

    systems: system messages, one drawn after another, that set the subject: under each the model
    continues an empty user's turn of its chat template. Without any it begins texts from nothing,
    of at most max_tokens, which are then gone on with as they stand. count: prompts asked for;
    those that loop, repeat or, with systems, never end are dropped and counted. max_tokens,
    temperature, seed: how they are sampled.
    """

    count: int
    max_tokens: int
    seed: int
    systems: tuple[str, ...] = ()
    temperature: float = 1.0
    top_p: float = 1.0

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        wrong = {n: "at least 1" for n in ("count", "max_tokens") if getattr(self, n) < 1}
        if self.temperature <= 0:
            wrong["temperature"] = "above 0, or every prompt is the same"
        if not 0 < self.top_p <= 1:
            wrong["top_p"] = "above 0 and at most 1"
        return wrong


@dataclass(frozen=True)
class DistillRun:
    """Self-distillation: the target answers prompts, and its answers are what heads learn from.

    model: folder of the target, or null when the command names it. output: folder of the run; the
    data set is its `dataset` folder. chat: whether prompts are a user's turn in the model's chat
    template, or are continued as they stand. max_prompt_tokens: longer prompts are dropped.
    min_answer_tokens: shorter answers are dropped. keep_unended: whether answers cut by
    `max_tokens` are kept; heads can learn from them. from_nothing: how many texts begin with BOS
    alone, for a model that writes without being asked.
    """

    run: str
    output: str
    seed: int
    chat: bool
    answers: SampleConfig
    prompts: tuple[PromptSet, ...] = ()
    self_written: SelfWritten | None = None
    model: str | None = None
    max_prompt_tokens: int = 512
    min_answer_tokens: int = 8
    keep_unended: bool = True
    from_nothing: int = 0

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        wrong = {
            n: "at least 1"
            for n in ("max_prompt_tokens", "min_answer_tokens")
            if getattr(self, n) < 1
        }
        if self.from_nothing < 0:
            wrong["from_nothing"] = "0 or more"
        elif self.from_nothing and self.chat:
            wrong["from_nothing"] = "0 where chat is true: every text answers a user"
        if not self.prompts and self.self_written is None and not self.from_nothing:
            wrong["prompts"] = "at least one set of prompts, or self_written, or from_nothing"
        if self.self_written is not None and bool(self.self_written.systems) != self.chat:
            wrong["self_written"] = (
                "systems where chat is true, to write a user's turn under"
                if self.chat
                else "no systems where chat is false: there is no user's turn to continue"
            )
        if self.answers.prompts is not None:
            wrong["answers"] = "no prompts of its own: they come from prompts and self_written"
        return wrong
