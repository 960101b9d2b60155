"""Whose the places of a draft are, heads' or text's, told to the scheduler, which judges drafts.

A draft is judged in a later step than it was made in, so what it was made of travels with that
step's output. By then the device is done with it, for vLLM has waited for that step's tokens: what
was sent for without waiting can be read when the output is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vllm_lmtp import is_lmtp

CARRIED = "lmtp_draft_sources"
"""Attribute of `ModelRunnerOutput` that takes the sources to the scheduler."""


class Sources:
    """Of the drafts of one step.

    Args:
        req_ids: of the drafts, R of them.
        origins: [R, m] uint8, of the device: the `Origin` of each place.
    """

    def __init__(self, req_ids: Sequence[str], origins: torch.Tensor) -> None:
        self.req_ids = list(req_ids)
        pinned = origins.device.type != "cpu"
        self.origins = torch.empty(origins.shape, dtype=origins.dtype, pin_memory=pinned)
        self.origins.copy_(origins, non_blocking=True)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle values alone: the output has arrived, so the copy has too."""
        return {"req_ids": self.req_ids, "origins": self._rows()}

    def by_request(self) -> dict[str, list[int]]:
        """Each request's places."""
        return dict(zip(self.req_ids, self._rows(), strict=True))

    def _rows(self) -> list[list[int]]:
        """Values, where these have travelled already or not."""
        return self.origins.tolist() if isinstance(self.origins, torch.Tensor) else self.origins


class SourceLog:
    """Holds what drafts were made of until the output of a later step takes it along."""

    def __init__(self) -> None:
        self._made: list[Sources] = []
        self._due: list[Sources] = []

    def add(self, req_ids: Sequence[str], origins: torch.Tensor) -> None:
        """Note the drafts of this step; [R, m] uint8 as in `Sources`."""
        self._made.append(Sources(req_ids, origins))

    def take(self) -> list[Sources]:
        """Those of earlier steps that were not taken before."""
        taken, self._due, self._made = self._due, self._made, []
        return taken


def carry(runner: Any, output: Any) -> None:
    """Put what earlier drafts were made of into what a runner returns for this step.

    Args:
        runner: of either kind. output: of its `sample_tokens`.
    """
    drafter = getattr(runner, "speculator", None) or getattr(runner, "drafter", None)
    log = getattr(drafter, "lmtp_sources", None)
    told = getattr(output, "model_runner_output", output)
    if isinstance(log, SourceLog) and told is not None and (sources := log.take()):
        setattr(told, CARRIED, sources)


def collect(scheduler: Any, model_runner_output: Any) -> None:
    """Keep with each request what its newest draft was made of, until that is judged."""
    carried = vars(model_runner_output).pop(CARRIED, None)  # vLLM shares some outputs between steps
    if not carried or not is_lmtp(scheduler.vllm_config.speculative_config):
        return
    for sources in carried:
        for req_id, origins in sources.by_request().items():
            if (request := scheduler.requests.get(req_id)) is not None:
                request.lmtp_origins = origins
