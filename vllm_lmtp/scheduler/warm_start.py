"""Keeps what an engine learnt of its draft length for the next one like it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm.logger import init_logger
from vllm.platforms import current_platform

from vllm_lmtp import __version__
from vllm_lmtp.compat import vllm_version
from vllm_lmtp.length.controller import Controller
from vllm_lmtp.length.file import Saved, differences, read_file, write_file
from vllm_lmtp.length.knowledge import VERSION
from vllm_lmtp.observe.node import processor_name
from vllm_lmtp.worker.cpu_int8 import can_multiply

logger = init_logger("vllm.lmtp")


OPTIONS = (
    "lmtp_stride",
    "lmtp_scorer",
    "lmtp_min_confidence",
    "lmtp_head_dtype",
    "lmtp_copy",
    "lmtp_copy_min_match",
    "lmtp_copy_max_match",
    "draft_sample_method",
    "enable_adaptive_verification",
)
"""Of the speculative config, those that drafts or their cost depend on."""


class WarmStart:
    """One file.

    Args:
        path: of it; it need not exist yet.
        engine: this engine's names.
    """

    def __init__(self, path: Path, engine: Mapping[str, str]) -> None:
        self.path, self.engine = path, engine

    def controller(self, lengths: Sequence[int]) -> Controller | None:
        """One that knows what the file says; None if it says nothing of an engine like this one.

        Args:
            lengths: what may be chosen now.

        Raises:
            LMTPError: the file holds something else.
        """
        saved = read_file(self.path)
        if saved is None:
            return None
        other = differences(self.engine, saved.engine)
        for name, ours in (("version", VERSION), ("lengths", list(lengths))):
            if saved.state.get(name) != ours:
                other.append(f"{name} {saved.state.get(name)}, here {ours}")
        if other:
            logger.warning(
                "L-MTP: %s was learnt on another engine (%s) and is not used; it will be replaced "
                "when this engine ends.",
                self.path,
                "; ".join(other),
            )
            return None
        logger.info("L-MTP: what was learnt of draft lengths before is read from %s", self.path)
        return Controller.from_state(saved.state, lengths, str(self.path))

    def save(self, controller: Controller) -> None:
        """Write what a controller knows, if it has learnt anything; a word if that fails."""
        state = controller.state()
        if not state["sizes"]:
            return
        try:
            write_file(self.path, Saved(self.engine, state))
        except OSError as error:
            logger.warning("L-MTP: what was learnt of draft lengths was lost: %s", error)


def engine_names(vllm_config: Any) -> dict[str, str]:
    """What must be the same for step times and acceptance to be the same."""
    speculative, model = vllm_config.speculative_config, vllm_config.model_config
    parallel = vllm_config.parallel_config
    return {
        "model": _named(model.model),
        "heads": _named(speculative.model),
        "dtype": str(model.dtype),
        "device": _device(),
        "layout": f"TP {parallel.tensor_parallel_size}, PP {parallel.pipeline_parallel_size}",
        "runner": "V2" if vllm_config.use_v2_model_runner else "V1",
        "quantization": str(model.quantization),
        "graphs": str(vllm_config.compilation_config.cudagraph_mode),
        "options": ", ".join(f"{name} {getattr(speculative, name)}" for name in OPTIONS),
        "versions": f"vllm-lmtp {__version__}, vLLM {vllm_version()}",
    }


def _named(model: str) -> str:
    """The same folder by any path to it; an id as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _device() -> str:
    if current_platform.is_cpu():
        int8 = ", int8 kept" if can_multiply() else ""
        return f"{processor_name()}, {os.cpu_count()} cores{int8}"
    return current_platform.get_device_name()
