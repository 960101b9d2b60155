"""An engine host that also changes what serves: adapters, weights, caches, sleep."""

from __future__ import annotations

from typing import Any

from tests.engine.host import Host, main

Adapter = tuple[str, int, str]
"""Name, number and folder of a LoRA adapter."""


class OperationsHost(Host):
    def generate(
        self,
        prompts: list[Any],
        params: Any,
        adapters: list[Adapter | None] | None = None,
        images: list[str] | None = None,
    ) -> dict[str, Any]:
        """As ever, each prompt with its adapter or with none, or with the image of a file."""
        plain = self.llm.generate

        def generate(inputs: list[Any], asked: Any, **kwargs: Any) -> Any:
            if adapters is not None:
                kwargs["lora_request"] = [_request(adapter) for adapter in adapters]
            if images is not None:
                inputs = [_with_image(*pair) for pair in zip(inputs, images, strict=True)]
            return plain(inputs, asked, **kwargs)

        self.llm.generate = generate
        try:
            return super().generate(prompts, params)
        finally:
            self.llm.generate = plain

    def serve(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        """Step until all is answered; each event happens before the step that it names.

        An event asks for tokens (`prompt`, `params`, `adapter` or none), or it adds or removes an
        adapter; what the engine says of that is returned as `said`.
        """
        from vllm import SamplingParams

        engine, before = self.llm.llm_engine, self.counters()
        answers: dict[str, Any] = {}
        said: list[Any] = []
        waiting, step = list(events), 0
        while waiting or engine.has_unfinished_requests():
            for event in [event for event in waiting if event["step"] <= step]:
                waiting.remove(event)
                if "add" in event:
                    said.append(engine.add_lora(_request(event["add"])))
                elif "remove" in event:
                    said.append(engine.remove_lora(event["remove"]))
                else:
                    engine.add_request(
                        event["name"],
                        {"prompt_token_ids": event["prompt"]},
                        SamplingParams(**event["params"]),
                        lora_request=_request(event.get("adapter")),
                    )
            for output in engine.step():
                if output.finished:
                    answers[output.request_id] = list(output.outputs[0].token_ids)
            step += 1
        after = self.counters()
        return {
            "tokens": answers,
            "said": said,
            "steps": step,
            "counters": {key: value - before.get(key, 0) for key, value in after.items()},
        }

    def adapters(self) -> dict[str, Any]:
        """Numbers of the adapters that the engine holds."""
        return {"numbers": sorted(self.llm.llm_engine.list_loras())}

    def held(self) -> dict[str, Any]:
        """How the target's layers are computed, and the dtypes of the heads' matrices."""
        executor = self.llm.llm_engine.engine_core.engine_core.model_executor
        runner = executor.driver_worker.worker.model_runner
        heads = (getattr(runner, "drafter", None) or runner.speculator).drafter.heads
        matrices = [tensor for tensor in heads.parameters() if tensor.dim() > 1]
        layer = runner.get_model().model.layers[0].mlp.down_proj
        return {
            "layers": type(layer.quant_method).__name__,
            "heads": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in matrices}),
        }

    def tell_workers(self, method: str, **kwargs: Any) -> dict[str, Any]:
        self.llm.collective_rpc(method, kwargs=kwargs)
        return {}

    def ask(self, method: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Call a method of `LLM` for what it does."""
        getattr(self.llm, method)(*args, **kwargs)
        return {}


def _with_image(prompt: str, file: str) -> dict[str, Any]:
    from PIL import Image

    return {"prompt": prompt, "multi_modal_data": {"image": Image.open(file).convert("RGB")}}


def _request(adapter: Adapter | None) -> Any:
    from vllm.lora.request import LoRARequest

    return None if adapter is None else LoRARequest(*adapter)


if __name__ == "__main__":
    main(OperationsHost())
