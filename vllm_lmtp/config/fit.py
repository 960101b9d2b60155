"""Whether heads, target and engine settings fit together: one check that lists every refusal.

Pure: it sees plain values, which `spec_config` gathers from vLLM. What a user may ask for beside
`lmtp` is everything vLLM offers except the settings in `UNSUPPORTED`; each of those changes what a
draft is, so ignoring it silently would be worse than refusing it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_lmtp.errors import Refusal
from vllm_lmtp.formats.checkpoint import MAX_VOCAB, HeadsCheckpoint

WHERE = "--speculative-config"


@dataclass(frozen=True)
class Target:
    """The model that is served. hidden_size and vocab_size as its LM head has them.

    feeds_lm_head: whether the hidden states that vLLM hands to a drafter are those the LM head
    reads; heads trained on the latter are useless on anything else.
    """

    name: str
    hidden_size: int
    vocab_size: int
    feeds_lm_head: bool = True


@dataclass(frozen=True)
class EngineSettings:
    """What else was asked for.

    runner: 1 or 2, the model runner vLLM will choose. options: the remaining values of the
    speculative config, by name.
    """

    runner: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    async_scheduling: bool | None
    num_speculative_tokens: int | None
    options: Mapping[str, Any]
    prefill_context_parallel_size: int = 1
    ubatching: bool = False
    kv_sharing_fast_prefill: bool = False


@dataclass(frozen=True)
class _Unsupported:
    field: str
    allowed: tuple[Any, ...]
    reason: str
    remedy: str


UNSUPPORTED = (
    _Unsupported(
        "quantization",
        (None,),
        "heads are served in the target's dtype",
        "leave it out; it does not affect the target's own quantisation",
    ),
    _Unsupported(
        "parallel_drafting", (False,), "leap heads always draft in parallel", "leave it out"
    ),
    _Unsupported(
        "use_heterogeneous_vocab",
        (False,),
        "heads speak the target's vocabulary",
        "leave it out",
    ),
    _Unsupported("max_model_len", (None,), "heads have no context of their own", "leave it out"),
    _Unsupported(
        "use_local_argmax_reduction", (False,), "leap heads always do this", "leave it out"
    ),
    _Unsupported(
        "disable_padded_drafter_batch", (False,), "leap heads pad nothing", "leave it out"
    ),
)


def find_refusals(
    checkpoint: HeadsCheckpoint, target: Target, settings: EngineSettings
) -> list[Refusal]:
    """Every reason why `checkpoint` cannot draft for `target` under `settings`."""
    faults = _misfits(checkpoint, target)
    most, wanted = checkpoint.schedule.max_drafts, settings.num_speculative_tokens
    if wanted is not None and wanted > most:
        faults.append(
            Refusal(
                WHERE,
                "num_speculative_tokens",
                str(wanted),
                f"at most {most}: {checkpoint.schedule.n_heads} head(s) with stride "
                f"{checkpoint.schedule.stride}",
                f"ask for {most} or fewer, or leave it out for {most}",
            )
        )
    faults += _scorer_faults(checkpoint, settings.options.get("lmtp_scorer", "auto"))
    for rule in UNSUPPORTED:
        value = settings.options.get(rule.field, rule.allowed[0])
        if value not in rule.allowed:
            expected = " or ".join(repr(v) for v in rule.allowed)
            faults.append(
                Refusal(WHERE, rule.field, repr(value), f"{expected}: {rule.reason}", rule.remedy)
            )
    least = settings.options.get("lmtp_copy_min_match", 1)
    longest = settings.options.get("lmtp_copy_max_match", least)
    if least > longest:
        expected = f"at most {longest}, the longest match that is told apart"
        remedy = "lower it, or raise lmtp_copy_max_match"
        faults.append(Refusal(WHERE, "lmtp_copy_min_match", str(least), expected, remedy))
    faults += _draft_length_faults(settings)
    draft_tp = settings.options.get("draft_tensor_parallel_size")
    if draft_tp not in (None, settings.tensor_parallel_size):
        faults.append(
            Refusal(
                WHERE,
                "draft_tensor_parallel_size",
                repr(draft_tp),
                f"{settings.tensor_parallel_size}, the target's: heads are sharded with it",
                "leave it out",
            )
        )
    faults += _engine_faults(settings)
    faults += _confidence_faults(checkpoint, settings)
    if settings.runner == 1:
        faults += _runner_v1_faults(settings)
    return faults


def finds_length(settings: EngineSettings) -> bool:
    """Whether the draft length is found while serving."""
    kind = settings.options.get("lmtp_draft_length")
    schedule = settings.options.get("num_speculative_tokens_per_batch_size")
    return kind == "auto" or not (kind or schedule or settings.num_speculative_tokens)


def _draft_length_faults(settings: EngineSettings) -> list[Refusal]:
    """Two answers to one question, and a file that nothing would write."""
    faults = []
    kind = settings.options.get("lmtp_draft_length")
    schedule = settings.options.get("num_speculative_tokens_per_batch_size")
    if kind is not None and schedule is not None:
        expected = "one or the other: both say how many drafts a step makes"
        remedy = "leave num_speculative_tokens_per_batch_size out, or lmtp_draft_length"
        faults.append(
            Refusal(WHERE, "lmtp_draft_length", f"{kind!r} and a schedule", expected, remedy)
        )
    file = settings.options.get("lmtp_draft_length_file")
    if file is not None and not finds_length(settings):
        expected = "no file: the draft length is fixed, so nothing is learnt"
        remedy = "leave it out, or set lmtp_draft_length to auto"
        faults.append(Refusal(WHERE, "lmtp_draft_length_file", repr(file), expected, remedy))
    elif file is not None and not Path(file).absolute().parent.is_dir():
        expected = "a file in a folder that exists"
        remedy = f"make {Path(file).absolute().parent}"
        faults.append(Refusal(WHERE, "lmtp_draft_length_file", repr(file), expected, remedy))
    return faults


def _confidence_faults(checkpoint: HeadsCheckpoint, settings: EngineSettings) -> list[Refusal]:
    """Uses of the confidence that the runner has not, and a calibration of other places."""
    faults = []
    least = settings.options.get("lmtp_min_confidence") or 0
    adaptive = settings.options.get("enable_adaptive_verification", False)
    if settings.runner == 2 and least and not adaptive:
        faults.append(
            Refusal(
                WHERE,
                "lmtp_min_confidence",
                str(least),
                "0, or enable_adaptive_verification beside it: Model Runner V2 has no other way to "
                "verify a part of a draft",
                "add enable_adaptive_verification, or leave lmtp_min_confidence out",
            )
        )
    if settings.runner == 1 and adaptive:
        faults.append(
            Refusal(
                WHERE,
                "enable_adaptive_verification",
                "True",
                "False on Model Runner V1, which cannot choose what to verify",
                "use lmtp_min_confidence there, or Model Runner V2",
            )
        )
    scorer, most = checkpoint.scorer, checkpoint.schedule.max_drafts
    used = (least or adaptive) and settings.options.get("lmtp_scorer", "auto") != "none"
    if used and scorer is not None and len(scorer.confidence) not in (0, most):
        faults.append(
            Refusal(
                str(checkpoint.path),
                "scorer.confidence.places",
                f"{len(scorer.confidence)} entries",
                f"{most}, the places that these heads have with stride "
                f"{checkpoint.schedule.stride}",
                "calibrate again: vllm-lmtp scorer calibrate",
            )
        )
    return faults


def _engine_faults(settings: EngineSettings) -> list[Refusal]:
    """Ways of running the target under which its hidden states are not what heads must read."""
    wanted = (
        (
            "--prefill-context-parallel-size",
            settings.prefill_context_parallel_size,
            settings.prefill_context_parallel_size > 1,
            "1: each rank holds only a part of the hidden states",
        ),
        ("--enable-dbo", True, settings.ubatching, "off: not tested with leap heads"),
        (
            "--kv-sharing-fast-prefill",
            True,
            settings.kv_sharing_fast_prefill,
            "off: it leaves out hidden states that lagged rows need",
        ),
    )
    faults = [
        Refusal(option, "value", str(value), expected, "leave it out")
        for option, value, refused, expected in wanted
        if refused
    ]
    in_step = settings.async_scheduling is False
    if settings.runner == 2 and settings.pipeline_parallel_size > 1 and in_step:
        expected = "asynchronous scheduling: V2 needs it for drafts in a pipeline"
        faults.append(
            Refusal("--no-async-scheduling", "value", "asked for", expected, "leave it out")
        )
    return faults


def _misfits(checkpoint: HeadsCheckpoint, target: Target) -> list[Refusal]:
    """Heads that were made for another model."""
    where = str(checkpoint.path)
    remedy = f"use heads that were trained on {target.name}"
    faults = []
    for field, found, expected in (
        ("hidden_size", checkpoint.hidden_size, target.hidden_size),
        ("vocab_size", checkpoint.vocab_size, target.vocab_size),
    ):
        if found != expected:
            faults.append(
                Refusal(where, field, str(found), f"{expected}, as {target.name} has", remedy)
            )
    if checkpoint.vocab_size >= MAX_VOCAB:
        limit = f"fewer than {MAX_VOCAB} tokens"
        faults.append(
            Refusal(where, "vocab_size", str(checkpoint.vocab_size), limit, "use a smaller one")
        )
    if not target.feeds_lm_head:
        faults.append(
            Refusal(
                target.name,
                "hidden states",
                "a drafter input that is not what the LM head reads",
                "a target that hands its final-norm hidden states to the drafter",
                "serve this target without lmtp, or with its own MTP method",
            )
        )
    return faults


def _scorer_faults(checkpoint: HeadsCheckpoint, wanted: Any) -> list[Refusal]:
    """A kind of scorer that was asked for by name and is not there."""
    found = None if checkpoint.scorer is None else checkpoint.scorer.kind
    if wanted in ("auto", "none", found):
        return []
    remedy = "leave it out for what there is, or add one: vllm-lmtp scorer build, or training"
    expected = f"{wanted!r}, as asked for by lmtp_scorer"
    held = "no scorer" if found is None else f"a scorer of kind {found!r}"
    return [Refusal(str(checkpoint.path), "scorer", held, expected, remedy)]


def _runner_v1_faults(settings: EngineSettings) -> list[Refusal]:
    faults = []
    if settings.pipeline_parallel_size > 1:
        faults.append(
            Refusal(
                "--pipeline-parallel-size",
                "Model Runner V1",
                str(settings.pipeline_parallel_size),
                "1: with drafts, V1 loses tokens on the earlier pipeline ranks",
                "use Model Runner V2 (VLLM_USE_V2_MODEL_RUNNER=1, needs Triton)",
            )
        )
    drawn = settings.options.get("draft_sample_method") == "probabilistic"
    if drawn and settings.tensor_parallel_size > 1:
        faults.append(
            Refusal(
                WHERE,
                "draft_sample_method",
                "'probabilistic' on Model Runner V1 with --tensor-parallel-size "
                f"{settings.tensor_parallel_size}",
                "'greedy': there the ranks of V1 have no common source of random numbers",
                "leave it out, or use Model Runner V2 (VLLM_USE_V2_MODEL_RUNNER=1)",
            )
        )
    if settings.async_scheduling:
        faults.append(
            Refusal(
                "--async-scheduling",
                "Model Runner V1",
                "on",
                "off: lmtp drafts synchronously on V1",
                "leave it out, or use Model Runner V2 (VLLM_USE_V2_MODEL_RUNNER=1)",
            )
        )
    return faults
