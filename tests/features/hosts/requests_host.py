"""An engine host whose requests ask for more than text: structure, log-probabilities, beams."""

from __future__ import annotations

from typing import Any

from tests.engine.host import Host, main


class RequestsHost(Host):
    def answer(
        self, prompts: list[Any], params: Any, priority: list[int] | None = None
    ) -> dict[str, Any]:
        """What was answered, in full.

        Args:
            prompts: text, token ids, or rows of embeddings.
            params: of all requests, or a list with those of each. `structured` is what
                `StructuredOutputsParams` takes.
        """
        before = self.counters()
        asked = [_sampling(p) for p in params] if isinstance(params, list) else _sampling(params)
        inputs = [_prompt(prompt) for prompt in prompts]
        outputs = self.llm.generate(inputs, asked, use_tqdm=False, priority=priority)
        after = self.counters()
        return {
            "tokens": [[list(c.token_ids) for c in o.outputs] for o in outputs],
            "texts": [[c.text for c in o.outputs] for o in outputs],
            "finish": [[c.finish_reason for c in o.outputs] for o in outputs],
            "sums": [[c.cumulative_logprob for c in o.outputs] for o in outputs],
            "logprobs": [[_steps(c.logprobs) for c in o.outputs] for o in outputs],
            "prompt_logprobs": [_steps(o.prompt_logprobs) for o in outputs],
            "counters": {key: value - before.get(key, 0) for key, value in after.items()},
        }

    def beams(self, prompts: list[list[int]], width: int, tokens: int) -> dict[str, Any]:
        """The sequences of a beam search, best first, and their log-probabilities."""
        from vllm.sampling_params import BeamSearchParams

        asked = BeamSearchParams(beam_width=width, max_tokens=tokens)
        found = self.llm.beam_search([{"prompt_token_ids": p} for p in prompts], asked)
        return {
            "tokens": [[list(s.tokens) for s in o.sequences] for o in found],
            "sums": [[s.cum_logprob for s in o.sequences] for o in found],
        }


def _sampling(values: dict[str, Any]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    values = dict(values)
    if structure := values.pop("structured", None):
        values["structured_outputs"] = StructuredOutputsParams(**structure)
    if bias := values.pop("logit_bias", None):  # JSON has no numbers for keys
        values["logit_bias"] = {int(token): value for token, value in bias.items()}
    return SamplingParams(**values)


def _prompt(prompt: Any) -> Any:
    import torch

    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt[0], list):
        return {"prompt_embeds": torch.tensor(prompt)}
    return {"prompt_token_ids": prompt}


def _steps(steps: Any) -> Any:
    """Log-probabilities by token, of each place that has any."""
    if steps is None:
        return None
    return [step and {str(t): entry.logprob for t, entry in step.items()} for step in steps]


if __name__ == "__main__":
    main(RequestsHost())
