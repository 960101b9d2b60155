"""Which offset each head of a checkpoint predicts: measured, put in words, drawn, and corrected."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm_lmtp.checkpoints.names import folder_or_id
from vllm_lmtp.errors import LMTPError, refuse
from vllm_lmtp.formats.checkpoint import CONFIG_FILE, HeadsCheckpoint, read_checkpoint, read_config
from vllm_lmtp.formats.hub import resolve_folder
from vllm_lmtp.formats.whole import write_json
from vllm_lmtp.tools.fit.agreement import Finding, HeadAgreement
from vllm_lmtp.tools.fit.fitness import LM_HEAD, TOGETHER, check_fit, measure_on_text

OLD_STRIDE = "skip_token_was"


@dataclass(frozen=True)
class Calibration:
    """What was measured. stated: config.json's stride, None where it states none. lm_head, heads:
    agreement with each offset. finding: the stride that the heads show."""

    folder: Path
    stated: int | None
    lm_head: HeadAgreement
    heads: tuple[HeadAgreement, ...]
    finding: Finding

    @property
    def is_right(self) -> bool:
        """Whether the heads show the stride that config.json states."""
        return self.finding.stride is not None and self.finding.stride == self.stated

    @property
    def words(self) -> str:
        """The stride in one sentence."""
        if self.finding.stride is None:
            return f"no stride: {self.finding.reason}"
        says = "as stated" if self.is_right else f"config.json states {self.stated or 'none'}"
        return f"stride {self.finding.stride} ({says}): {self.finding.reason}"

    def report(self) -> dict[str, Any]:
        """Everything as one JSON object."""
        return {
            "folder": str(self.folder),
            "stated_stride": self.stated,
            "stride": self.finding.stride,
            "words": self.words,
            "lm_head": asdict(self.lm_head),
            "heads": [asdict(head) | {"peak": head.peak} for head in self.heads],
        }


def calibrate(model: str, target: str | None = None, text: Path | None = None) -> Calibration:
    """Measure the heads of a checkpoint.

    Args:
        model: folder or Hugging Face id of the heads.
        target: the model they draft for; the backbone of a stage-1 folder when left out.
        text: a file to measure on; None for text that the target writes itself.

    Raises:
        LMTPError: the heads or the target cannot be read, do not fit each other, or the text is
            too short.
    """
    checkpoint, stated = _read(resolve_folder(model))
    if target is None and not checkpoint.stage1:
        raise refuse(
            str(checkpoint.path),
            "--target",
            found="heads without a backbone",
            expected="the model they were trained on",
            remedy="give it as --target MODEL",
        )
    backbone = str(checkpoint.path) if target is None else folder_or_id(target)
    check_fit(checkpoint, backbone)
    found = measure_on_text(checkpoint, stated, backbone, text)
    return Calibration(checkpoint.path, stated, found.lm_head, found.heads, found.finding)


def _read(folder: Path) -> tuple[HeadsCheckpoint, int | None]:
    """The checkpoint and the stride it states; where only that is missing or impossible, the heads
    are read all the same, since measuring them is how to find it."""
    try:
        checkpoint = read_checkpoint(folder)
    except LMTPError:
        return read_checkpoint(folder, stride=1), None
    return checkpoint, checkpoint.schedule.stride


def check_writable(model: str) -> None:
    """Refuse, before anything is measured, to correct what is not a folder of the user's own.

    Raises:
        LMTPError: an id, whose files lie in a cache that others share.
    """
    if not os.path.exists(os.path.expanduser(model)):
        raise refuse(
            model,
            "--write",
            found="no such folder here",
            expected="a folder whose config.json may be corrected",
            remedy="download the checkpoint to a folder, or leave --write out",
        )


def correct(calibration: Calibration) -> bool:
    """Write the stride that was found to config.json and note the old one; all else is kept.

    Returns:
        Whether the file was changed: not if it states the right stride.

    Raises:
        LMTPError: no stride was found, or the file cannot be written; it is then unchanged.
    """
    file = calibration.folder / CONFIG_FILE
    if calibration.is_right:
        return False
    if calibration.finding.stride is None:
        raise refuse(
            str(file),
            "skip_token",
            found=calibration.finding.reason,
            expected="heads that show a stride",
            remedy="keep the stated stride, which is the one they were trained with"
            if calibration.finding == TOGETHER
            else "measure on other text (--text), or check that --target is theirs",
        )
    config = read_config(calibration.folder)
    note = {OLD_STRIDE: config.get("skip_token")}
    try:
        write_json(file, config | {"skip_token": calibration.finding.stride} | note)
    except OSError as error:
        raise refuse(
            str(file),
            "--write",
            found=f"cannot be written ({error.strerror or error})",
            expected="a folder with room that may be written to",
            remedy="free the space, or copy the checkpoint; the file is unchanged",
        ) from error
    return True


def rows(calibration: Calibration) -> list[tuple[str, Sequence[float]]]:
    """Name and rates of the LM head and of every head, for tables and pictures."""
    agreements = (calibration.lm_head, *calibration.heads)
    return [("LM head" if a.head == LM_HEAD else f"head {a.head}", a.rates) for a in agreements]
