"""Lines beside vLLM's own in the log: what drafts copied from the text since the last one, and how
long drafts are."""

from __future__ import annotations

from typing import Any

from vllm_lmtp.observe.carried import copied_tokens, length_report


def note(logging: Any, stats: Any) -> None:
    """Add up one step.

    Args:
        logging: vLLM's `SpecDecodingLogging`. stats: `SpecDecodingStats` of the step.
    """
    drafted, accepted = copied_tokens(stats)
    if drafted:
        so_far = getattr(logging, "lmtp_copied", (0, 0))
        logging.lmtp_copied = so_far[0] + drafted, so_far[1] + accepted
    if (report := length_report(stats)) is not None:
        logging.lmtp_lengths = report.sizes


def log(logging: Any, log_fn: Any) -> None:
    """Say how many of the tokens that vLLM is about to report were copied, and what lengths are in
    use; nothing where there is nothing to say.

    Args:
        log_fn: as vLLM's `logger.info`.
    """
    if sizes := getattr(logging, "lmtp_lengths", ()):
        logging.lmtp_lengths = ()
        words = ", ".join(f"{s.length} up to {s.most} ({s.gain / 1000:.2f})" for s in sizes)
        log_fn("L-MTP metrics: Draft length by requests (speed over plain, estimated): %s", words)
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
