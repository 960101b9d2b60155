"""Whether these heads fit their target, and whether they predict what their config says they do."""

from __future__ import annotations

from pathlib import Path

from vllm_lmtp.checkpoints.names import folder_or_id
from vllm_lmtp.errors import LMTPError
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint, read_checkpoint
from vllm_lmtp.formats.hub import resolve_folder
from vllm_lmtp.tools.doctor.check import OK, WARNING, Check, problems
from vllm_lmtp.tools.fit.fitness import TOGETHER, Measurement, check_fit, measure_on_text


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
    try:
        model = str(checkpoint.path) if target is None else folder_or_id(target)
    except LMTPError as error:
        return [*checks, *problems("target", error)], None
    try:
        check_fit(checkpoint, model)
    except LMTPError as error:
        return [*checks, *problems("target", error)], None
    checks.append(Check("target", OK, f"{model}: sizes fit the heads"))
    try:
        found = measure_on_text(checkpoint, stated, model, text)
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


def _lm_head_check(found: Measurement) -> Check:
    """A sanity check of the measurement itself."""
    rate = f"the LM head predicts {found.lm_head.rates[0]:.0%} of the next tokens"
    if found.lm_head.peak == 1:
        return Check("text", OK, f"{rate}, over {found.lm_head.num_rows} positions")
    remedy = "give a text of the kind the model was trained on as --text"
    return Check("text", WARNING, f"{rate}: the text does not suit the target", remedy)


def _stride_check(found: Measurement) -> Check:
    shown, stated = found.finding.stride, found.stated_stride
    if found.finding == TOGETHER and stated is not None:
        return Check("stride", OK, f"{stated} is stated; not shown: {TOGETHER.reason}")
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
