"""Run in a process of its own, with or without the plugin; prints one JSON line at the end.

python -m tests.patches.probe bindings        what became of every binding
python -m tests.patches.probe configs FOLDER  engine configs of an ordinary model
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from typing import Any

MARK = "PROBE "


def bindings() -> dict[str, Any]:
    """For each binding: whether it is applied, how often it is wrapped, why it was not imported."""
    import wrapt

    from vllm_lmtp import patches
    from vllm_lmtp.plugin import register

    register()
    modules = {b.module for patch in patches.PATCHES for b in patch.bindings}
    early = sorted(modules & set(sys.modules))
    report: dict[str, Any] = {"early": early, "bindings": {}}
    for patch in patches.PATCHES:
        for binding in patch.bindings:
            why = ""
            try:
                module = importlib.import_module(binding.module)
            except ImportError as error:
                why = str(error)
            register()
            wrapped = 0
            if not why:
                parent, name, bound = wrapt.resolve_path(module, binding.attribute)
                bound = vars(parent)[name]
                while isinstance(bound, wrapt.FunctionWrapper):
                    wrapped, bound = wrapped + 1, bound.__wrapped__
            applied = patches.applied(binding)
            report["bindings"][str(binding)] = {"applied": applied, "wrapped": wrapped, "why": why}
    report["command_line"] = command_line()
    return report


def command_line() -> dict[str, Any]:
    """What vLLM's parser makes of the options that we widen."""
    from vllm import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    parsed: dict[str, Any] = {}
    for line in (
        "--speculative-config lmtp",
        "-sc lmtp",
        '--speculative-config={"method":"ngram"}',
        "--speculative-config lmtpx",
        "--spec-method lmtp",
        "--spec-method ngram",
        "--spec-method nonsense",
    ):
        try:
            given = parser.parse_args(line.split())
            parsed[line] = given.speculative_config or given.spec_method
        except SystemExit:
            parsed[line] = "refused"
    return parsed


def configs(folder: str) -> dict[str, Any]:
    """What vLLM makes of an ordinary model, plain and with n-gram speculation."""
    loud: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            loud.append(record.getMessage())

    for name in ("vllm_lmtp", "vllm.lmtp"):
        logging.getLogger(name).addHandler(Listener(logging.INFO))

    from vllm import EngineArgs
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    report: dict[str, Any] = {}
    ngram = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}
    for name, speculative in (("plain", None), ("ngram", ngram)):
        config = EngineArgs(model=folder, speculative_config=speculative).create_engine_config()
        drafting = config.speculative_config
        report[name] = {
            "hash": config.compute_hash(),
            "hf_config": config.model_config.hf_config.to_dict(),
            "hf_overrides": config.model_config.hf_overrides,
            "async_scheduling": config.scheduler_config.async_scheduling,
            "speculative": drafting and [type(drafting).__name__, drafting.method],
            "num_speculative_tokens": drafting and drafting.num_speculative_tokens,
        }
    report["loud"] = loud
    report["ours"] = sorted(name for name in sys.modules if name.startswith("vllm_lmtp"))
    return report


if __name__ == "__main__":
    print(MARK + json.dumps({"bindings": bindings, "configs": configs}[sys.argv[1]](*sys.argv[2:])))
