"""Accepts the bare word `lmtp` on the command line."""

from __future__ import annotations

import json
from typing import Any

from vllm_lmtp import METHOD
from vllm_lmtp.patches.record import Binding, Patch, around


def _widen(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    parser = wrapped(*args, **kwargs)
    for action in parser._actions:
        if "--speculative-config" in action.option_strings:
            action.type = _bare_word_or(action.type)
        if "--spec-method" in action.option_strings and action.choices:
            action.choices = [*action.choices, METHOD]
    return parser


def _bare_word_or(parse: Any) -> Any:
    def speculative_config(value: str) -> Any:
        return {"method": METHOD} if value.strip() == METHOD else parse(value)

    # argparse names the type in its error message, and vLLM's --help prints it.
    speculative_config.__name__ = getattr(parse, "__name__", json.loads.__name__)
    return speculative_config


PATCH = Patch(
    name="cli_args",
    why="vLLM parses --speculative-config as JSON and limits --spec-method to its own methods, "
    "so `--speculative-config lmtp` would stop at the parser.",
    bindings=(Binding("vllm.engine.arg_utils", "EngineArgs.add_cli_args", around(_widen)),),
    written_against="vllm/engine/arg_utils.py, EngineArgs.add_cli_args (0.32.0, 0.33.0)",
    upstream="https://github.com/vllm-project/vllm/issues/36219 (proposer registry)",
    remove_when="vLLM takes the names of registered proposers as methods on the command line",
    vllm=None,
)
