"""Whether these heads fit their target, and whether they predict what their config says they do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vllm_lmtp.agreement import MAX_OFFSET, Finding, HeadAgreement, agreement, find_stride, measure
from vllm_lmtp.checkpoint import HeadsCheckpoint, read_checkpoint
from vllm_lmtp.cli.backbone import Backbone
from vllm_lmtp.cli.check import OK, WARNING, Check, problems
from vllm_lmtp.config import EngineSettings, Target, find_refusals
from vllm_lmtp.errors import LMTPError, raise_refusals, refuse
from vllm_lmtp.hub import resolve_folder

LM_HEAD = -1


@dataclass(frozen=True)
class Measurement:
    """What was measured: the LM head's agreement, the heads', and what the latter show."""

    stated_stride: int | None
    lm_head: HeadAgreement
    heads: tuple[HeadAgreement, ...]
    finding: Finding


def check_heads(
    heads: str, target: str | None, text: Path | None
) -> tuple[list[Check], Measurement | None]:
    """Read the heads, compare them with the target, and measure them on text.

    Args:
        heads: folder or Hugging Face id of the heads.
        target: folder or id of the model they draft for; that of a stage-1 folder when left out.
        text: file to measure on; None for text that the target writes itself.
    """
    checks: list[Check] = []
    try:
        checkpoint, stated = _read(heads, checks)
    except LMTPError as error:
        return [*checks, *problems("heads", error)], None
    schedule = checkpoint.schedule
    checks.append(
        Check("heads", OK, f"{schedule.n_heads} head(s), stride {stated or 'not stated'}, {heads}")
    )
    if target is None and not checkpoint.stage1:
        remedy = "give the model they were trained on as --target"
        checks.append(Check("stride", WARNING, "not measured: heads without a backbone", remedy))
        return checks, None
    model = str(checkpoint.path) if target is None else target
    try:
        raise_refusals(find_refusals(checkpoint, _target(model), _any_settings()))
    except LMTPError as error:
        return [*checks, *problems("target", error)], None
    checks.append(Check("target", OK, f"{model}: sizes fit the heads"))
    try:
        found = _measure(checkpoint, stated, model, text)
    except LMTPError as error:
        return [*checks, *problems("measurement", error)], None
    return [*checks, _lm_head_check(found), _stride_check(found)], found


def _read(heads: str, checks: list[Check]) -> tuple[HeadsCheckpoint, int | None]:
    """The checkpoint and the stride it states. Where only the stride is missing, that is noted as a
    problem and the heads are read all the same, since measuring them is how to find it."""
    folder = resolve_folder(heads)
    try:
        checkpoint = read_checkpoint(folder)
    except LMTPError as error:
        try:
            checkpoint = read_checkpoint(folder, stride=1)
        except LMTPError:
            raise error from None
        checks += problems("heads", error)
        return checkpoint, None
    return checkpoint, checkpoint.schedule.stride


def _target(model: str) -> Target:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model).get_text_config()
        return Target(model, config.hidden_size, config.vocab_size)
    except (OSError, ValueError, AttributeError) as error:
        raise refuse(
            model,
            "config.json",
            found=f"transformers cannot read it ({str(error).splitlines()[0]})",
            expected="the configuration of a language model",
            remedy="check the path or id of the target",
        ) from error


def _any_settings() -> EngineSettings:
    """Settings that are never refused, to leave only what heads and target say."""
    return EngineSettings(
        runner=2,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        async_scheduling=None,
        num_speculative_tokens=None,
        options={},
    )


def _measure(
    checkpoint: HeadsCheckpoint, stated: int | None, model: str, text: Path | None
) -> Measurement:
    backbone = Backbone(model)
    texts = backbone.own_text() if text is None else backbone.encode(_read_text(text))
    passages = backbone.read(texts)
    n_heads = checkpoint.schedule.n_heads
    max_offset = max(MAX_OFFSET, 1 + (stated or 1) * n_heads)
    heads = measure(checkpoint, passages, max_offset)
    lm_head = agreement(LM_HEAD, backbone.top_tokens, passages, max_offset)
    return Measurement(stated, lm_head, heads, find_stride(heads))


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


def _lm_head_check(found: Measurement) -> Check:
    """A sanity check of the measurement itself."""
    rate = f"the LM head predicts {found.lm_head.rates[0]:.0%} of the next tokens"
    if found.lm_head.peak == 1:
        return Check("text", OK, f"{rate}, over {found.lm_head.num_rows} positions")
    remedy = "give a text of the kind the model was trained on as --text"
    return Check("text", WARNING, f"{rate}: the text does not suit the target", remedy)


def _stride_check(found: Measurement) -> Check:
    shown, stated = found.finding.stride, found.stated_stride
    if shown is None:
        remedy = "check that the heads belong to this target, or measure on another --text"
        return Check("stride", WARNING, f"not shown: {found.finding.reason}", remedy)
    if shown == stated:
        return Check("stride", OK, f"{shown}, as stated: {found.finding.reason}")
    says = "states none" if stated is None else f"states {stated}"
    return Check(
        "stride",
        WARNING,
        f"{shown}, but config.json {says}: {found.finding.reason}",
        f'serve with {{"method": "lmtp", "lmtp_stride": {shown}}}, or correct skip_token',
    )
