"""A host of engines that also says what vLLM it runs, and which patches were made in it."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from tests.engine.host import Host, main


class RegistryHost(Host):
    """Asked after an engine was started, so that plugins are loaded."""

    def about(self) -> dict[str, Any]:
        """Where vLLM lies, and the names of patches of which anything was applied."""
        import vllm

        from vllm_lmtp import patches

        applied = set()
        for file in pkgutil.iter_modules(patches.__path__):
            module = importlib.import_module(f"vllm_lmtp.patches.{file.name}")
            bindings = module.PATCH.bindings if hasattr(module, "PATCH") else ()
            applied |= {file.name for binding in bindings if patches.applied(binding)}
        return {"vllm": vllm.__file__, "applied": sorted(applied)}

    def command_line(self) -> dict[str, Any]:
        """What vLLM's parser makes of the options that name a method."""
        from tests.patches.probe import command_line

        return command_line()

    def configured(self, model: str, speculative_config: Any) -> dict[str, Any]:
        """The class and the method of the config that offline arguments give."""
        from vllm import EngineArgs

        args = EngineArgs(
            model=model, speculative_config=speculative_config, skip_tokenizer_init=True
        )
        config = args.create_engine_config().speculative_config
        return {"class": type(config).__name__, "method": config.method}


if __name__ == "__main__":
    main(RegistryHost())
