"""A line beside vLLM's own in the log: what drafts copied from the text, since the last one."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.observe.metrics import copied_tokens


def note(logging: Any, stats: Any) -> None:
    """Add up one step.

    Args:
        logging: vLLM's `SpecDecodingLogging`. stats: `SpecDecodingStats` of the step.
    """
    drafted, accepted = copied_tokens(stats)
    if drafted:
        so_far = getattr(logging, "lmtp_copied", (0, 0))
        logging.lmtp_copied = so_far[0] + drafted, so_far[1] + accepted


def log(logging: Any, log_fn: Any) -> None:
    """Say how many of the tokens that vLLM is about to report were copied; nothing if none were.

    Args:
        log_fn: as vLLM's `logger.info`.
    """
    drafted, accepted = getattr(logging, "lmtp_copied", (0, 0))
    if not drafted:
        return
    logging.lmtp_copied = 0, 0
    log_fn(
        "L-MTP metrics: Copied from the text: %d of %d drafted tokens, %d of %d accepted tokens",
        drafted,
        sum(logging.num_draft_tokens),
        accepted,
        sum(logging.num_accepted_tokens),
    )
