"""An engine host that also asks with cache salts, and shows what Prometheus would be told."""

from __future__ import annotations

from typing import Any

from tests.engine.host import Host, main


class FaultsHost(Host):
    def ask(self, prompts: list[list[int]], salts: list[str], params: Any) -> dict[str, Any]:
        """As `generate`, each prompt with a salt that keeps its cached prefixes apart."""
        plain = self.llm.generate

        def salted(inputs: list[dict[str, Any]], *args: Any, **kwargs: Any) -> Any:
            with_salt = [
                asked | {"cache_salt": salt} for asked, salt in zip(inputs, salts, strict=True)
            ]
            return plain(with_salt, *args, **kwargs)

        self.llm.generate = salted
        try:
            return self.generate(prompts, params)
        finally:
            self.llm.generate = plain

    def labels(self) -> dict[str, Any]:
        """Name -> every label and its value, of all that this package tells Prometheus."""
        from prometheus_client import REGISTRY

        found: dict[str, list[list[str]]] = {}
        for metric in REGISTRY.collect():
            for sample in metric.samples:
                if "lmtp" in sample.name:
                    found.setdefault(sample.name, []).extend(map(list, sample.labels.items()))
        return {"labels": found}


if __name__ == "__main__":
    main(FaultsHost())
