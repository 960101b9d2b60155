"""Builds the drafting side on a worker: heads from disk, history, decoder. Used by both runners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.logger import init_logger
from vllm.utils.torch_utils import set_default_torch_dtype

from vllm_lmtp import __version__
from vllm_lmtp.compat import vllm_version
from vllm_lmtp.config.spec_config import LMTPSpeculativeConfig
from vllm_lmtp.formats.checkpoint import HeadsCheckpoint
from vllm_lmtp.method.backward import BackwardDecoder
from vllm_lmtp.method.best import Best
from vllm_lmtp.method.choice import Choose, Draw, Meter
from vllm_lmtp.method.confidence import Confidence
from vllm_lmtp.method.copying import (
    DEFAULT_ACCURACY,
    DEFAULT_LOG_ODDS,
    Copying,
    Texts,
    by_length,
)
from vllm_lmtp.method.drawn import Drawn
from vllm_lmtp.method.lazy_history import LazyHistory
from vllm_lmtp.observe.node import named, node_name
from vllm_lmtp.worker.cpu_term import speed_up
from vllm_lmtp.worker.heads import LeapHeads
from vllm_lmtp.worker.scorer_weights import build_scorer, stored_output
from vllm_lmtp.worker.weights import build_heads

logger = init_logger("vllm.lmtp")

KINDS = ("image", "video", "audio")


@dataclass(frozen=True)
class Drafter:
    """decoder; the heads, which own every tensor of it; confidence, where it is wanted;
    draft_temperature, of drawn drafts as a share of the request's."""

    decoder: BackwardDecoder
    heads: LeapHeads
    confidence: Confidence | None
    draft_temperature: float

    def choice(self, into: torch.Tensor | None, draw: Draw | None = None) -> Choose | None:
        """How the places are filled; None for the heads' best token, which needs no chooser.

        Args:
            into: [at least R, m] float32, where the confidence of each place goes if it is wanted.
            draw: draws tokens from the scored distribution; None for the best.
        """
        meter = None
        if self.confidence is not None and into is not None:
            meter = Meter(self.confidence, into)
        if draw is not None:
            return Drawn(self.heads, draw, self.draft_temperature, meter)
        if meter is None and self.decoder.copying is None:
            return None
        return Best(self.heads, meter)


def build_drafter(
    vllm_config: VllmConfig, num_slots: int, device: torch.device, texts: Texts
) -> Drafter:
    """Load the heads of `vllm_config.speculative_config` onto this rank.

    vLLM calls this inside its measured model load, so the heads count as model memory.

    Args:
        num_slots: requests whose tails must be kept at once.
        texts: the requests' own tokens.

    Raises:
        LMTPError: this node lacks the heads, or they are damaged, or its GPU cannot hold them so.
    """
    speculative_config = vllm_config.speculative_config
    assert isinstance(speculative_config, LMTPSpeculativeConfig)
    with named():
        checkpoint = speculative_config.read_heads()
    schedule = speculative_config.schedule
    dtype = vllm_config.model_config.dtype
    with set_current_vllm_config(vllm_config), set_default_torch_dtype(dtype), device:
        heads = build_heads(checkpoint, dtype, speculative_config.lmtp_head_dtype)
    scorer = None
    if speculative_config.lmtp_scorer != "none":
        output = heads.output(0)
        shard = output.shard_indices
        start, end = shard.org_vocab_start_index, shard.org_vocab_end_index
        scorer = build_scorer(checkpoint, start, end, output.num_embeddings_per_partition, dtype)
        stored = stored_output(checkpoint, start, end, output.num_embeddings_per_partition)
        speed_up(scorer, stored if heads.products else None)
    if scorer is not None:
        heads.add_module("scorer", scorer.to(device))
    confidence = None
    if speculative_config.wants_confidence:
        lines = () if scorer is None or checkpoint.scorer is None else checkpoint.scorer.confidence
        places = speculative_config.num_speculative_tokens or schedule.max_drafts
        confidence = Confidence(lines, places).to(device)
        heads.add_module("confidence", confidence)
    history = LazyHistory(num_slots, schedule.stride, checkpoint.hidden_size, dtype, device)
    heads.add_module("history", history)  # vLLM's sleep mode looks after the buffers of one module
    copying = _copying(vllm_config, checkpoint, device, texts)
    if copying is not None:
        heads.add_module("copying", copying)
    logger.info(
        "L-MTP (vllm-lmtp %s): %d head(s), stride %d, %d drafts a step, %.1f MB of heads in %s on "
        "this rank, scorer %s, copying %s, from %s, vLLM %s, node %s",
        __version__,
        schedule.n_heads,
        schedule.stride,
        speculative_config.num_speculative_tokens,
        heads.num_bytes / 1e6,
        str(heads.held).removeprefix("torch."),
        "none" if scorer is None or checkpoint.scorer is None else checkpoint.scorer.kind,
        speculative_config.lmtp_copy,
        speculative_config.model,
        vllm_version(),
        node_name(),
    )
    decoder = BackwardDecoder(schedule, heads, history, scorer, copying)
    return Drafter(decoder, heads, confidence, speculative_config.lmtp_draft_temperature)


def _copying(
    vllm_config: VllmConfig, checkpoint: HeadsCheckpoint, device: torch.device, texts: Texts
) -> Copying | None:
    """What the requests' texts count, None where they are not asked."""
    config = vllm_config.speculative_config
    if config.lmtp_copy == "off":
        return None
    scored = config.lmtp_scorer != "none" and checkpoint.scorer is not None
    facts = checkpoint.scorer if scored else None
    least, longest = config.lmtp_copy_min_match, config.lmtp_copy_max_match
    odds = (facts and facts.copy_log_odds) or DEFAULT_LOG_ODDS
    accuracy = (facts and facts.copy_accuracy) or DEFAULT_ACCURACY
    shape = vllm_config.scheduler_config.max_num_seqs, config.num_speculative_tokens
    return Copying(
        texts,
        by_length(odds, least, longest),
        by_length(accuracy, least, longest, none=0.0),
        checkpoint.vocab_size,
        torch.zeros(shape, dtype=torch.uint8, device=device),
        placeholders(vllm_config.model_config.hf_config),
    )


def placeholders(hf_config: Any) -> tuple[int, ...]:
    """Tokens that only hold the place of a part of a picture, a film or a sound in a prompt."""
    names = [f"{kind}_token_{word}" for kind in KINDS for word in ("id", "index")]
    found = {getattr(hf_config, name, None) for name in names}
    return tuple(sorted(token for token in found if isinstance(token, int)))
