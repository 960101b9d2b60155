"""`SpeculativeConfig` for the method `lmtp`.

A subclass, so that vLLM's own class keeps its list of methods and users of other methods meet
nothing new. It is pickled into engine, worker and Ray processes: keep this module's imports light.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError
from vllm.config import ModelConfig, SpeculativeConfig
from vllm.config.utils import config

from vllm_lmtp.config.fit import WHERE, EngineSettings, Target, find_refusals
from vllm_lmtp.errors import LMTPError, Refusal, raise_refusals
from vllm_lmtp.formats.checkpoint import MAX_STRIDE, HeadsCheckpoint, read_checkpoint
from vllm_lmtp.formats.hub import resolve_folder
from vllm_lmtp.formats.scorer_tensors import MOST_MATCH
from vllm_lmtp.length.choices import in_order, num_drafts, spread_lengths
from vllm_lmtp.length.file import read_file
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.observe.node import check_versions, versions
from vllm_lmtp.plugin import register


def runner_in_use(parallel: Any = None) -> int:
    """The model runner vLLM will choose for lmtp, 1 or 2, as `VllmConfig.use_v2_model_runner` does.

    parallel: vLLM's `ParallelConfig`, if there is one already.
    """
    import vllm.envs as envs
    from vllm.triton_utils import HAS_TRITON

    forced = envs.VLLM_USE_V2_MODEL_RUNNER
    if forced is not None:
        return 2 if forced else 1
    pipelined = parallel is not None and parallel.pipeline_parallel_size > 1
    if pipelined and parallel.distributed_executor_backend == "external_launcher":
        return 1
    return 2 if HAS_TRITON else 1


@config
class LMTPSpeculativeConfig(SpeculativeConfig):
    """Drafting with leap heads.

    model: stage-1 folder, heads-only folder or Hugging Face id; the target's own when left out.
    num_speculative_tokens: 1..n*k, the number of drafts of every step; left out, that is found
        while serving, up to n*k.
    lmtp_draft_length: "auto" finds the number while serving, "fixed" keeps it; left out, "fixed"
        where a number or vLLM's schedule by batch size is given. With "auto" a number is the most.
    lmtp_draft_length_file: where what was found is kept when the engine ends, and read when it
        starts.
    lmtp_stride: overrides the checkpoint's `skip_token`, which published ones misstate.
    lmtp_scorer: "auto" for the scorer that the checkpoint has, "none", or the kind it must have.
    lmtp_min_confidence: a draft ends before the place at which it is less likely than this to be
        right up to there; 0 keeps all. Left out, it is what a row is worth on Model Runner V1 where
        the draft length is found while serving, and 0 elsewhere.
    lmtp_draft_temperature: of drafts that are drawn (`draft_sample_method: "probabilistic"`), as a
        share of the request's; heads are less sure than the target, and 0.6 makes up for it
        (docs/results/scorer.md, Temperature of a drawn draft).
    lmtp_head_dtype: of the heads' output matrices; int8 and fp8 have one scale a row. "auto" is the
        model's, but stored int8 stays on CPUs with AVX512-VNNI.
    lmtp_copy: "on" lets drafts copy what the request's own text says; "off" asks the heads alone,
        bit for bit as before there was copying.
    lmtp_copy_min_match, lmtp_copy_max_match: how many newest tokens must have stood in the text
        before, and up to how many are told apart.
    """

    if TYPE_CHECKING:  # vLLM's own fields that are read here
        model: str | None
        revision: str | None
        num_speculative_tokens: int | None
        draft_sample_method: str
        enable_adaptive_verification: bool
        num_speculative_tokens_per_batch_size: list[tuple[int, int, int]] | None

    method: Literal["lmtp"] = "lmtp"
    lmtp_stride: int | None = Field(default=None, ge=1, le=MAX_STRIDE)
    lmtp_scorer: Literal["auto", "none", "table", "markov", "recurrent"] = "auto"
    lmtp_min_confidence: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    lmtp_draft_length: Literal["auto", "fixed"] | None = None
    lmtp_draft_length_file: str | None = None
    lmtp_draft_temperature: float = Field(default=0.6, ge=0.05, le=10, allow_inf_nan=False)
    lmtp_head_dtype: Literal["auto", "bfloat16", "float16", "float32", "int8", "fp8"] = "auto"
    lmtp_copy: Literal["on", "off"] = "on"
    lmtp_copy_min_match: int = Field(default=1, ge=1, le=MOST_MATCH)
    lmtp_copy_max_match: int = Field(default=8, ge=1, le=MOST_MATCH)
    lmtp_engine_args: dict[str, Any] = Field(default_factory=dict)
    """What the engine's other arguments say (`requested.ENGINE_ARGS`); not for users."""
    lmtp_n_heads: int = 0
    """Set from the checkpoint; not for users."""
    lmtp_cut_by_price: bool = False
    """Set where drafts end at what a row is worth; not for users."""
    lmtp_versions: dict[str, str] = Field(default_factory=dict)
    """Set where the engine is planned, compared by every worker; not for users."""

    def __post_init__(self) -> None:
        """Resolve and check the heads.

        Raises:
            LMTPError: every reason at once (pydantic wraps it; see `as_lmtp_error`).
        """
        target = self.target_model_config
        if self.model is None:
            self.model = target.model_weights or target.model
            self.revision = self.revision or target.revision
        checkpoint = self.read_heads()
        raise_refusals(find_refusals(checkpoint, _target(target), self._settings()))

        self.lmtp_versions = versions()
        self.lmtp_stride = checkpoint.schedule.stride
        self.lmtp_n_heads = checkpoint.schedule.n_heads
        self._settle_draft_length(checkpoint)
        self.prompt_lookup_max = self.prompt_lookup_min = 0
        # The heads have no ModelConfig of their own; vLLM reads sizes and the name from this one.
        self.draft_model_config = copy.copy(target)
        self.draft_model_config.model = self.model
        self.draft_model_config.quantization = None
        if target.enable_sleep_mode:
            # Deep sleep discards weights; vLLM reloads the target's but would leave heads garbage.
            target.sleep_preserve_parameter_names.append("draft.*")
        self.draft_parallel_config = self.target_parallel_config

    def _settle_draft_length(self, checkpoint: HeadsCheckpoint) -> None:
        """Fixed where a number or a schedule was given, found while serving elsewhere."""
        given = self.num_speculative_tokens or self.num_speculative_tokens_per_batch_size
        self.lmtp_draft_length = self.lmtp_draft_length or ("fixed" if given else "auto")
        most = checkpoint.schedule.max_drafts
        self.num_speculative_tokens = self.num_speculative_tokens or most
        runner = runner_in_use(self.target_parallel_config)
        lines = () if checkpoint.scorer is None else checkpoint.scorer.confidence
        # Lines of other places, as with another stride, say nothing; nobody asked for them.
        known = self.lmtp_scorer == "none" or len(lines) in (0, most)
        may_cut = self.lmtp_min_confidence is None and known and runner == 1
        self.lmtp_cut_by_price = may_cut and self.lmtp_draft_length == "auto"
        self.lmtp_min_confidence = self.lmtp_min_confidence or 0.0
        if self.lmtp_draft_length == "auto":
            # Names the lengths in use, the longest always, so that V2 captures graphs for them; it
            # reads as many rows as there may be requests. What is chosen for a size of batch does
            # not come from here (scheduler/draft_length.py).
            named = sorted({num_drafts(choice) for choice in self.draft_choices})
            rows = self.lmtp_engine_args.get("max_num_seqs") or len(named)
            self.num_speculative_tokens_per_batch_size = [
                (row, row, length) for row, length in enumerate(named[-rows:], 1)
            ]
            if self.lmtp_draft_length_file is not None:
                read_file(Path(self.lmtp_draft_length_file))

    @property
    def draft_choices(self) -> tuple[int, ...]:
        """What may be chosen while serving (length/choices.py).

        Copies alone only where drafts are cut, since most texts say nothing of the next token.
        """
        most = self.num_speculative_tokens
        assert most is not None
        alone = self.lmtp_cut_by_price and self.lmtp_copy == "on"
        greedy = self.draft_sample_method != "probabilistic"
        lengths = spread_lengths(most)
        if runner_in_use(self.target_parallel_config) == 2:  # a length needs a graph, thus a row
            lengths = lengths[-(self.lmtp_engine_args.get("max_num_seqs") or len(lengths)) :]
        return in_order((*lengths, *([-most] if alone and greedy else [])))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle, in a worker: Ray's have not loaded plugins yet when this reaches them.

        Raises:
            LMTPError: this node has another version of vllm-lmtp or vLLM.
        """
        self.__dict__.update(state)
        register()
        check_versions(state.get("lmtp_versions", {}))

    @property
    def schedule(self) -> LeapSchedule:
        """The leap schedule that is served."""
        assert self.lmtp_stride is not None
        return LeapSchedule(self.lmtp_n_heads, self.lmtp_stride)

    @property
    def wants_confidence(self) -> bool:
        """Whether anything asks how confident the drafts are."""
        cut = self.lmtp_cut_by_price or bool(self.lmtp_min_confidence)
        return self.enable_adaptive_verification or cut

    def read_heads(self) -> HeadsCheckpoint:
        """Find and check the heads on this machine; each node calls it for itself.

        Raises:
            LMTPError: they are missing or unfit.
        """
        assert self.model is not None
        folder = resolve_folder(
            self.model, self.revision, self.lmtp_engine_args.get("download_dir")
        )
        return read_checkpoint(folder, self.lmtp_stride)

    def _settings(self) -> EngineSettings:
        parallel = self.target_parallel_config
        return EngineSettings(
            runner=runner_in_use(parallel),
            tensor_parallel_size=parallel.tensor_parallel_size,
            pipeline_parallel_size=parallel.pipeline_parallel_size,
            async_scheduling=self.lmtp_engine_args.get("async_scheduling"),
            num_speculative_tokens=self.num_speculative_tokens,
            options=vars(self),
            prefill_context_parallel_size=parallel.prefill_context_parallel_size,
            ubatching=parallel.use_ubatching,
            kv_sharing_fast_prefill=bool(self.lmtp_engine_args.get("kv_sharing_fast_prefill")),
        )


def _target(model_config: ModelConfig) -> Target:
    from vllm.model_executor.model_loader.utils import get_model_cls

    # vLLM swaps the drafter's input for exactly the classes that have this hook.
    swaps_states = hasattr(get_model_cls(model_config), "get_mtp_target_hidden_states")
    return Target(
        name=model_config.model,
        hidden_size=model_config.get_hidden_size(),
        vocab_size=model_config.get_vocab_size(),
        feeds_lm_head=not swaps_states,
    )


def as_lmtp_error(error: ValidationError) -> LMTPError:
    """Turn pydantic's report into ours: one refusal for each fault it lists."""
    refusals: list[Refusal] = []
    for fault in error.errors():
        cause: Any = fault.get("ctx", {}).get("error")
        if isinstance(cause, LMTPError):
            refusals += cause.refusals
            continue
        field = ".".join(str(part) for part in fault["loc"]) or "value"
        if fault["type"] == "unexpected_keyword_argument":
            known = (
                "lmtp_stride, lmtp_scorer, lmtp_min_confidence, lmtp_draft_temperature, "
                "lmtp_head_dtype, lmtp_copy, lmtp_copy_min_match, lmtp_copy_max_match, "
                "lmtp_draft_length, lmtp_draft_length_file "
                "or one of vLLM's speculative options"
            )
            refusals.append(
                Refusal(WHERE, field, "an unknown key", known, "correct the spelling or remove it")
            )
        else:
            refusals.append(
                Refusal(WHERE, field, repr(fault.get("input")), fault["msg"], "correct the value")
            )
    return LMTPError(refusals)
