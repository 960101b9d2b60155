"""Greedy answers against plain decoding's, token for token, by the million.

Blocks of requests of every kind (`mixture.py`) are answered by plain decoding and then by L-MTP
under the same hostile conditions (`trial.py`). Each block is kept as it is answered, so that a run
that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from vllm_lmtp.eval.engines.cells import key_of
from vllm_lmtp.eval.engines.methods import PLAIN, stamp_of
from vllm_lmtp.eval.engines.variants import WHOLE, Variant
from vllm_lmtp.eval.prompts.asking import Progress
from vllm_lmtp.eval.provenance import versions
from vllm_lmtp.eval.trust.kept import Kept
from vllm_lmtp.eval.trust.margin import Margin
from vllm_lmtp.eval.trust.mixture import KINDS, Request, requests_of_block
from vllm_lmtp.eval.trust.trial import Answered, Conditions, EngineTrial, Trial
from vllm_lmtp.eval.trust.verdict import compared_row, facts_of, not_seen, row_of, summary, sums

SHOWN = 20
"""Differences of one way of drafting that a result holds in full."""
Start = Callable[[Conditions, "dict[str, Any] | None"], Trial]
Write = Callable[[int], "list[list[int]]"]
"""Texts of at least so many tokens, which prompts are cut from."""


@dataclass(frozen=True)
class Plan:
    """tokens: of plain decoding's answers, at least. of_block: of each block, about. max_tokens: of
    the longest answer."""

    tokens: int
    of_block: int
    max_tokens: int
    seed: int

    @property
    def of_texts(self) -> int:
        """Tokens to cut prompts from: more for more requests, so that few are the same."""
        return max(2_000, min(self.tokens // 20, 40_000))


def in_whole_drafts(variant: Variant) -> Variant:
    """The same with drafts as long as they can be at every step."""
    name, options = f"{variant.name}, whole drafts", WHOLE | variant.options
    return replace(variant, name=name, options=options)


def measure(
    variants: Sequence[Variant],
    conditions: Conditions,
    plan: Plan,
    kept: Kept,
    write: Write,
    margin: Margin,
    progress: Progress,
    start: Start = EngineTrial,
) -> dict[str, Any]:
    """Plain decoding, then each variant on the same blocks."""
    facts = {
        "model": stamp_of(conditions.model),
        "conditions": conditions.facts() | {"dtype": conditions.dtype},
        "plan": {"of_block": plan.of_block, "max_tokens": plan.max_tokens, "seed": plan.seed},
        "versions": versions(),
    }
    key = key_of(facts | {"texts": plan.of_texts})
    if (texts := kept.get(key)) is None:
        texts = write(plan.of_texts)
        kept.put(key, texts)
    facts |= {"texts": hashlib.sha256(json.dumps(texts).encode()).hexdigest()}

    def requests(number: int) -> list[Request]:
        return requests_of_block(
            texts, conditions.context, plan.max_tokens, plan.of_block, plan.seed, number
        )

    plain: list[dict[str, Any]] = []
    with _Pass(PLAIN, None, conditions, plan, progress, start) as run:
        for number in count():
            if sum(row["tokens"] for row in plain) >= plan.tokens:
                break
            key = key_of(facts | {"block": number, "method": PLAIN})
            if (row := kept.get(key)) is None:
                answered = run.answer(requests(number))
                row = row_of(answered) | facts_of(run.trial) | {"answers": answered.tokens}
                kept.put(key, row)
            plain.append(row)
            run.done(row)
    found = []
    for variant in variants:
        config = variant.speculative_config
        weights = stamp_of(str(variant.checkpoint.path))
        rows = []
        with _Pass(variant.name, config, conditions, plan, progress, start) as run:
            for number, reference in enumerate(plain):
                # Options that the config leaves to their defaults are not told apart from them.
                own = {"block": number, "method": config, "heads": weights}
                key = key_of(facts | own)
                if (row := kept.get(key)) is None:
                    asked = requests(number)
                    answered = run.answer(asked)
                    row = compared_row(variant, reference["answers"], answered, run.trial)
                    kept.put(key, row)
                rows.append(row)
                run.done(row)
        differences = [{"block": n} | d for n, row in enumerate(rows) for d in row["differences"]]
        for d in differences[:SHOWN]:
            request = requests(d["block"])[d["request"]]
            answer = plain[d["block"]]["answers"][d["request"]]
            d |= request.facts() | margin(request.tokens, answer, d.pop("got"), d["place"])
        found.append(variant.facts() | summary(variant, rows, plain, differences))
    kinds = Counter(r.kind for number in range(len(plain)) for r in requests(number))
    chunked = sum(
        len(r.tokens) > conditions.chunk for number in range(len(plain)) for r in requests(number)
    )
    return {
        "plan": vars(plan),
        "conditions": conditions.facts(),
        "requests": {"kinds": {k: kinds[k] for k in KINDS}, "chunked": chunked},
        "texts": {"tokens": sum(map(len, texts)), "sha256": facts["texts"]},
        "plain": sums(plain),
        "variants": [v | {"not_seen": not_seen(v, chunked)} for v in found],
    }


class _Pass:
    """One way of decoding over all blocks: its engine, begun with the first block that is missing,
    and how far it is."""

    def __init__(
        self,
        name: str,
        config: dict[str, Any] | None,
        conditions: Conditions,
        plan: Plan,
        progress: Progress,
        start: Start,
    ) -> None:
        self._name, self._config, self._conditions = name, config, conditions
        self._plan, self._progress, self._start = plan, progress, start
        self._trial: Trial | None = None
        self._done = self._new = 0
        self._begun = 0.0

    def __enter__(self) -> _Pass:
        return self

    def __exit__(self, *_: object) -> None:
        if self._trial is not None:
            self._trial.close()

    @property
    def trial(self) -> Trial:
        """The engine."""
        if self._trial is None:
            self._progress(f"{self._name}: starting the engine")
            self._trial = self._start(self._conditions, self._config)
            self._begun = time.perf_counter()
        return self._trial

    def answer(self, requests: Sequence[Request]) -> Answered:
        """Of the engine."""
        answered = self.trial.answer(requests)
        self._new += sum(map(len, answered.tokens))
        return answered

    def done(self, row: Mapping[str, Any]) -> None:
        """Say how far it is."""
        self._done += row["tokens"]
        if not self._new:
            return
        rate = self._new / (time.perf_counter() - self._begun)
        left = max(0, self._plan.tokens - self._done) / rate
        self._progress(
            f"{self._name}: {self._done} of {self._plan.tokens} tokens, {rate:.0f} tokens/s, "
            f"{left / 60:.1f} min left"
            + (f", {len(row['differences'])} DIFFERENT" if row.get("differences") else "")
        )
