"""What an engine counts that keeps some requests of the exact-chain target running at a time.

A request of one token that joins others is where vLLM counts one draft more than the request alone
has: its scheduler pads such a request with placeholders (-1) to the length of the drafts beside it,
so that the step is a uniform one. Nobody made that draft; it is judged, refused and counted. A
request that starts while nothing runs, or an engine whose drafts go by the size of the batch, is
not padded.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.chain.target import Chain, Counters, Walk


def simulate_streams(
    chain: Chain, prompts: Sequence[list[int]], streams: int, max_tokens: int, places: int
) -> tuple[list[list[int]], Counters]:
    """Outputs and counters of requests of which `streams` run at most: in the step after one ends,
    the next begins.

    places: drafts a step, whatever the batch. Every prompt is computed in one step.
    """
    walks: list[Walk] = []
    running: list[Walk] = []
    while len(walks) < len(prompts) or running:
        joining = prompts[len(walks) : len(walks) + streams - len(running)]
        begun = [
            Walk(chain, prompt, max_tokens, places, padded=bool(running) and len(prompt) == 1)
            for prompt in joining
        ]
        for walk in running:
            walk.step(places)
        walks += begun
        running = [walk for walk in [*running, *begun] if not walk.ended]
    counters = sum((walk.counters for walk in walks), Counters.zero(places))
    return [walk.output for walk in walks], counters
