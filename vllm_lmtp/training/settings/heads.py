"""The fields of `run: heads` files: heads trained on rows that a distillation kept."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_lmtp.training.settings.loss import CROSS_ENTROPY, LossConfig
from vllm_lmtp.training.settings.stages import HeadsConfig, OptimConfig

TRAINED = ("all", "blocks", "term")
LEARNT = ("written", "best")


@dataclass(frozen=True)
class DraftVocabConfig:
    """How many tokens heads can name: size, or the least that covers this share of held-out
    answers; exactly one of both.
    """

    size: int | None = None
    coverage: float | None = None

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        if (self.size is None) == (self.coverage is None):
            return {"size": "a number of tokens, or a coverage: exactly one of both fields"}
        if self.size is not None and self.size < 1:
            return {"size": "at least 1"}
        if self.coverage is not None and not 0 < self.coverage <= 1:
            return {"coverage": "above 0 and at most 1"}
        return {}


@dataclass(frozen=True)
class TermConfig:
    """A term (markov.py, recurrent.py). rank: r. shared: one output matrix for all heads. lr_scale:
    its learning rate over the heads'. decay: what each place of a draft counts less than the one
    before it: a place is worth nothing where one before it is wrong. alone: share of the positions
    that also teach heads without the term, and the weight of that.
    """

    rank: int
    shared: bool = True
    lr_scale: float = 3.0
    decay: float = 0.8
    alone: float = 0.0

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        wrong = {} if self.rank >= 1 else {"rank": "at least 1"}
        if self.lr_scale <= 0:
            wrong["lr_scale"] = "above 0"
        if not 0 < self.decay <= 1:
            wrong["decay"] = "above 0 and at most 1"
        if not 0 <= self.alone <= 1:
            wrong["alone"] = "0 to 1"
        return wrong


@dataclass(frozen=True)
class HeadsRun:
    """Stage 1 on kept rows: the backbone was run once, while it answered, and is not run again.

    backbone: folder of the model that answered; its output matrix is where heads start. dataset:
    a folder that `vllm-lmtp distill` wrote with `keep_rows`. output: folder of the run; heads are
    written to its `model` folder. held_out: answers kept for the accuracies. limit: how many of
    the other answers are used, or null for all. init: a heads folder to go on from, instead of
    the backbone's output matrix. markov, recurrent: a term to train; a recurrent one goes on from
    a Markov term of its rank or a lower one that `init` has. train: "all"; "blocks", all but the
    output matrices; or "term", the term alone. loss: what a place learns. learn: what its `ce`
    does, "written", the tokens of the answers, or "best", the token that the backbone holds most
    likely at each of their positions. int8: store output matrices and term in int8.
    measured_tokens: held-out tokens that a state is judged by while it is trained. report_to: where
    transformers reports to, such as tensorboard or wandb.

    A row of `optim` is a position of an answer, drawn at random over all of them.
    """

    run: str
    model_name: str
    output: str
    seed: int
    threads: int
    held_out: int
    heads: HeadsConfig
    optim: OptimConfig
    dataset: str
    backbone: str | None = None
    draft_vocab: DraftVocabConfig | None = None
    markov: TermConfig | None = None
    recurrent: TermConfig | None = None
    init: str | None = None
    train: str = "all"
    loss: LossConfig = CROSS_ENTROPY
    learn: str = "written"
    limit: int | None = None
    int8: bool = False
    measured_tokens: int = 8192
    report_to: tuple[str, ...] = ()

    @property
    def term(self) -> TermConfig | None:
        """The term to train, of either kind."""
        return self.markov or self.recurrent

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        wrong = {
            n: "at least 1"
            for n in ("threads", "held_out", "measured_tokens")
            if getattr(self, n) < 1
        }
        if self.limit is not None and self.limit < 1:
            wrong["limit"] = "at least 1, or null"
        if self.train not in TRAINED:
            wrong["train"] = " or ".join(TRAINED)
        elif self.train != "all" and self.init is None:
            wrong["train"] = "all, unless init names heads that are trained already"
        elif self.train == "term" and self.term is None:
            wrong["markov"] = "a rank, or recurrent with one, as train: term trains nothing else"
        if self.markov is not None and self.recurrent is not None:
            wrong["recurrent"] = "none beside markov"
        if self.learn not in LEARNT:
            wrong["learn"] = " or ".join(LEARNT)
        if self.init is not None and self.draft_vocab is not None:
            wrong["draft_vocab"] = "none where init is given: its heads have theirs"
        return wrong
