"""Whether heads fit a target, and what they predict on its text: in plain transformers, no vLLM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_lmtp.config.fit import EngineSettings, Target, find_refusals
from vllm_lmtp.errors import raise_refusals, refuse
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint, read_config
from vllm_lmtp.formats.scorer_tensors import FIELD, TRAINED_WITH, WITH_HEADS
from vllm_lmtp.tools.fit.agreement import (
    CLEAR,
    MAX_OFFSET,
    Finding,
    HeadAgreement,
    agreement,
    find_stride,
    measure,
)
from vllm_lmtp.tools.fit.backbone import Backbone

LM_HEAD = -1
FAR = 4
"""Offsets beyond those of any head, of which a head knows as much as of other texts."""
TOGETHER = Finding(
    None, "these heads learnt together with their term and say too little without it"
)
"""Of such heads the term knows most. With it every offset is met about as often: their own by 1 to
4 points more, which is within the error of a thousand positions."""


@dataclass(frozen=True)
class Measurement:
    """What was measured: the LM head's agreement, the heads', and what the latter show."""

    stated_stride: int | None
    lm_head: HeadAgreement
    heads: tuple[HeadAgreement, ...]
    finding: Finding


def check_fit(checkpoint: HeadsCheckpoint, model: str) -> None:
    """Refuse heads that were made for another model.

    Args:
        model: folder or Hugging Face id of the target.

    Raises:
        LMTPError: sizes differ, or the target's configuration cannot be read.
    """
    # Settings that are never refused, to leave only what heads and target say.
    settings = EngineSettings(
        runner=2,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        async_scheduling=None,
        num_speculative_tokens=None,
        options={},
    )
    raise_refusals(find_refusals(checkpoint, _target(model), settings))


def measure_on_text(
    checkpoint: HeadsCheckpoint, stated: int | None, model: str, text: Path | None
) -> Measurement:
    """Agreement of the heads, and of the LM head, with every offset on text.

    Args:
        stated: the stride that config.json states, None where it states none.
        model: folder or id of the target.
        text: file to measure on; None for text that the target writes itself.

    Raises:
        LMTPError: the text cannot be read, or the target cannot be loaded.
    """
    backbone = Backbone(model)
    texts = backbone.own_text() if text is None else backbone.encode(_read_text(text))
    passages = backbone.read(texts)
    n_heads = checkpoint.schedule.n_heads
    max_offset = max(MAX_OFFSET, 1 + (stated or 1) * n_heads)
    heads = measure(checkpoint, passages, max_offset)
    lm_head = agreement(LM_HEAD, backbone.top_tokens, passages, max_offset)
    finding = find_stride(heads)
    if _learnt_with_term(checkpoint) and know_the_target(heads):
        finding = TOGETHER
    return Measurement(stated, lm_head, heads, finding)


def know_the_target(heads: Sequence[HeadAgreement]) -> bool:
    """Whether heads that show no stride follow this target's text all the same: none prefers one
    offset clearly, yet some agree with their best one more often than with those far off."""
    return not any(head.is_clear for head in heads) and any(_follows(head) for head in heads)


def _follows(head: HeadAgreement) -> bool:
    best, far = max(head.rates), sum(head.rates[-FAR:]) / FAR
    return best - far > CLEAR * math.sqrt((best * (1 - best) + far * (1 - far)) / head.num_rows)


def _learnt_with_term(checkpoint: HeadsCheckpoint) -> bool:
    """Whether heads and term were trained as one."""
    scorer = read_config(checkpoint.path).get(FIELD) or {}
    return bool(scorer.get(TRAINED_WITH) == WITH_HEADS)


def _target(model: str) -> Target:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config()
        return Target(model, config.hidden_size, config.vocab_size)
    except (OSError, ValueError, AttributeError) as error:
        raise refuse(
            model,
            "config.json",
            found=f"transformers cannot read it ({str(error).splitlines()[0]})",
            expected="the configuration of a language model",
            remedy="check the path or id of the target",
        ) from error


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(
            str(file),
            "text",
            found=f"unreadable ({error})",
            expected="a text file in UTF-8",
            remedy="check the path given as --text",
        ) from error
