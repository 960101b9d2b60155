"""Recomputes with transformers alone what L-MTP must draft and what must be accepted.

Independent of the package: it reads the tensors by their names on disk and follows the definition
of the method (arXiv 2505.17505, section 3): the draft at offset o comes from head
i = ceil((o - 1) / k), counted from 1, on the hidden state k * i + 1 - o positions back.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from tests.support.chain.target import Counters
from tests.support.copy_search import CopiedDraft
from vllm_lmtp.method.copying import DEFAULT_LOG_ODDS, Origin


@dataclass
class Oracle:
    """Target and heads in float32, run by transformers.

    folder: holds the heads. target: an ordinary model; None when `folder` is a stage-1 checkpoint.
    copies: whether drafts copy from the text.
    """

    folder: Path
    target: Path | None = None
    copies: bool = True

    def __post_init__(self) -> None:
        raw = json.loads((self.folder / "config.json").read_text())
        self.n_heads, self.stride = raw["n_head"], raw["skip_token"]
        tensors = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            tensors |= load_file(file)
        d2t = tensors.pop("heads.d2t", None)
        self.draft_ids = None if d2t is None else [j + int(d) for j, d in enumerate(d2t)]
        tensors = {name: t.float() for name, t in tensors.items()}
        for name in [n for n in tensors if n.endswith("lm_head.scale")]:
            tensors[name.replace("scale", "weight")] *= tensors.pop(name)[:, None]
        for name in [n for n in tensors if n.endswith("_scale")]:
            tensors[name.removesuffix("_scale")] *= tensors.pop(name)[..., None]
        self._scorer_tables(raw, tensors)
        if self.target is None:
            self.model = self._stage1_backbone(tensors)
        else:
            auto = AutoModelForCausalLM
            if "vision_config" in json.loads((self.target / "config.json").read_text()):
                auto = AutoModelForImageTextToText
            self.model = auto.from_pretrained(self.target, dtype=torch.float32).eval()
        self.heads = [
            [
                tensors[f"heads.heads.{i}.{part}"]
                for part in ("resblock.0.l_proj.weight", "resblock.0.l_proj.bias", "lm_head.weight")
            ]
            for i in range(self.n_heads)
        ]
        self.eos = raw.get("eos_token_id")
        self.vocab_size = raw["vocab_size"]
        fitted = raw.get("scorer", {}).get("copying", {}).get("log_odds")
        self.copy_odds = (fitted or list(DEFAULT_LOG_ODDS))[:8]

    def _stage1_backbone(self, tensors: dict[str, torch.Tensor]) -> Any:
        config = AutoConfig.from_pretrained(self.folder)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        backbone = {n: t for n, t in tensors.items() if not n.startswith(("heads.", "scorer."))}
        loaded = model.load_state_dict(backbone, strict=False)
        assert not loaded.unexpected_keys
        assert set(loaded.missing_keys) <= {"lm_head.weight"}
        model.tie_weights()
        return model

    @torch.inference_mode()
    def expect(
        self, prompt: list[int], max_tokens: int, num_drafts: int | None = None
    ) -> tuple[list[int], Counters]:
        """Greedy output tokens and vLLM's counters for one request served alone or in a batch."""
        num_drafts = num_drafts or self.n_heads * self.stride
        # A few tokens more than wanted: the last step's drafts are judged in full.
        inputs = torch.tensor([prompt])
        generated = self.model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),  # or a prompt token may pass for padding
            max_new_tokens=max_tokens + num_drafts,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0]
        truth = generated.tolist()
        states = self.model.model(generated[None]).last_hidden_state[0]
        logits = [self._logits(head, states) for head in self.heads]

        stop = len(prompt) + max_tokens
        if self.eos in truth[len(prompt) : stop]:
            stop = truth.index(self.eos, len(prompt)) + 1
        counters = Counters.zero(num_drafts)
        length = len(prompt) + 1
        while length < stop:
            newest = length - 2  # the last position whose hidden state is final
            accepted, previous, memory = 0, truth[length - 1], self._begin(states[newest])
            copy = CopiedDraft(
                truth[:length],
                num_drafts if self.copies else 0,
                self.copy_odds if self.copies else (),
                self.vocab_size,
            )
            counters.num_drafts += 1
            counters.cold += newest + 1 < self.stride
            for place in range(num_drafts):
                counters.drafted_per_pos[place] += 1
                offset = place + 2
                head = math.ceil((offset - 1) / self.stride)
                lag = min(self.stride * head + 1 - offset, newest)
                memory = self._read(memory, previous)
                votes = logits[head - 1][newest - lag] + self._said(memory, head - 1)
                votes = self._added(head - 1, votes, previous)
                if copy.weight(place):
                    previous = copy.fill(place, self._opinion(votes))[0]
                else:
                    previous = self._token(int(votes.argmax()))
                    copy.leave_to_heads(place, previous)
                right = previous == truth[newest + offset]
                if right and accepted == place:
                    accepted += 1
                    counters.accepted_per_pos[place] += 1
            counters.copied += copy.origins.count(Origin.TEXT)
            counters.copied_accepted += copy.origins[:accepted].count(Origin.TEXT)
            length += accepted + 1
        return truth[len(prompt) : stop], counters

    def _scorer_tables(self, raw: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """What each preceding token adds to each token that can be drafted, by head: [n, V, D]."""
        self.added, self.term = None, None
        if "scorer" not in raw:
            return
        size = len(tensors["heads.heads.0.lm_head.weight"])
        drafted = self.draft_ids or list(range(size))
        rows = [drafted.index(t) if t in drafted else size for t in range(raw["vocab_size"])]
        if raw["scorer"]["kind"] == "recurrent":
            self.term = {
                name.removeprefix("scorer.recurrent."): tensor
                for name, tensor in tensors.items()
                if name.startswith("scorer.recurrent.")
            }
            self.term["embed"] = self.term["embed"][rows]
            return
        if raw["scorer"]["kind"] == "markov":
            embed, output = tensors["scorer.markov.embed"], tensors["scorer.markov.output"]
            outputs = output if output.dim() == 3 else output[None]
            self.added = torch.stack([(embed @ matrix.T)[rows] for matrix in outputs])
            return
        ids, ratios = tensors["scorer.table.ids"].int(), tensors["scorer.table.ratios"]
        table = torch.zeros(len(ids), size)
        for row, (successors, values) in enumerate(zip(ids, ratios, strict=True)):
            for successor, value in zip(successors.tolist(), values.tolist(), strict=True):
                if successor >= 0:
                    table[row, successor] = raw["scorer"]["weight"] * value
        self.added = (table if len(table) == raw["vocab_size"] else table[rows])[None]

    def _begin(self, newest: torch.Tensor) -> torch.Tensor:
        """What a recurrent term starts a draft from."""
        return newest if self.term is None else self.term["start"] @ newest

    def _read(self, memory: torch.Tensor, previous: int) -> torch.Tensor:
        """The memory of a recurrent term after one more token."""
        if self.term is None:
            return memory
        read = self.term["embed"][previous]
        total = self.term["carry"] @ torch.cat([memory, read])
        return read + total * torch.sigmoid(total)

    def _said(self, memory: torch.Tensor, head: int) -> torch.Tensor:
        """What a recurrent term adds to the logits of a head (from 0), [D]."""
        if self.term is None:
            return torch.zeros(())
        output = self.term["output"]
        return (output if output.dim() == 2 else output[head]) @ memory

    def _added(self, head: int, votes: torch.Tensor, previous: int) -> torch.Tensor:
        """The logits [D] of a head (from 0), and what `previous` adds to them."""
        if self.added is None:
            return votes
        return votes + self.added[min(head, len(self.added) - 1), previous]

    def _token(self, best: int) -> int:
        """The target's token of one of the heads' vocabulary."""
        return best if self.draft_ids is None else self.draft_ids[best]

    def _opinion(self, votes: torch.Tensor) -> dict[int, float]:
        """The probability of every token that the heads can name."""
        shares = votes.double().softmax(dim=-1).tolist()
        return {self._token(row): share for row, share in enumerate(shares)}

    @staticmethod
    def _logits(head: list[torch.Tensor], states: torch.Tensor) -> torch.Tensor:
        weight, bias, output = head
        hidden = states + torch.nn.functional.silu(states @ weight.T + bias)
        return hidden @ output.T
