"""The backbone in plain transformers: texts in, the rows that its LM head reads out. No vLLM."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vllm_lmtp.checkpoints.openings import OPENINGS
from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.tokenizer import has_tokenizer
from vllm_lmtp.tools.fit.agreement import Passage

SAMPLES = 8
SAMPLE_TOKENS = 128
WINDOW = 512
# Parameters below which a CPU computes in float32, which is faster there but takes twice the room.
SMALL = 10**9
MAX_TOKENS = 4096


class Backbone:
    """A causal language model and its tokenizer, if there is one.

    Args:
        folder: a plain model or a stage-1 folder, whose `heads.*` tensors are left out.
        dtype: "float32", to compute in that; else in the file's own, a small model on a CPU in
            float32 all the same.

    Raises:
        LMTPError: transformers cannot load it, or tensors of it are missing.
    """

    def __init__(self, folder: str | Path, dtype: str = "auto") -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.folder = str(folder)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.model, report = transformers.AutoModelForCausalLM.from_pretrained(
                self.folder,
                dtype=torch.float32 if dtype == "float32" else "auto",
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise refuse(
                self.folder,
                "model",
                found=f"transformers cannot load it ({str(error).splitlines()[0]})",
                expected="a causal language model",
                remedy="give the folder or id of the model that the heads were trained on",
            ) from error
        if report["missing_keys"]:
            raise refuse(
                self.folder,
                "weights",
                found=f"no {', '.join(sorted(report['missing_keys'])[:3])}, ...",
                expected="every tensor of the backbone",
                remedy="restore the missing files",
            )
        if device == "cpu" and self.model.num_parameters() < SMALL:
            self.model = self.model.float()
        self.model = self.model.to(device).eval()
        self.tokenizer = _tokenizer(self.folder)

    def own_text(self, seed: int = 0) -> list[torch.Tensor]:
        """Token ids [L] of SAMPLES passages that the model writes, sampled at temperature 1."""
        start = self._starts(seed).to(self.model.device)
        length = min(SAMPLE_TOKENS, self._context() - start.shape[1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            written = self.model.generate(
                start,
                attention_mask=torch.ones_like(start),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=length,
                pad_token_id=self.model.generation_config.pad_token_id or 0,
            )
        ends = _as_list(self.model.generation_config.eos_token_id)
        return [_until_end(row, start.shape[1], ends) for row in written.cpu()]

    def encode(self, text: str) -> list[torch.Tensor]:
        """Token ids of a given text, in windows that fit the model; at most MAX_TOKENS in all.

        Raises:
            LMTPError: the model's folder has no tokenizer.
        """
        if self.tokenizer is None:
            raise refuse(
                self.folder,
                "tokenizer",
                found="none",
                expected="tokenizer.json, to read a text with",
                remedy="copy the tokenizer into the folder, or leave --text out",
            )
        ids = torch.tensor(self.tokenizer(text)["input_ids"][:MAX_TOKENS], dtype=torch.int64)
        if not len(ids):
            raise refuse(
                "--text",
                "text",
                found="nothing",
                expected="a text of the kind that the model writes",
                remedy="give another file, or leave --text out",
            )
        return list(torch.split(ids, min(WINDOW, self._context())))

    @torch.inference_mode()
    def read(self, texts: Sequence[torch.Tensor]) -> list[Passage]:
        """The rows of each text: by definition, the input of the output embeddings."""
        rows: list[torch.Tensor] = []
        head = self.model.get_output_embeddings()

        def keep(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            """The logits themselves are not wanted, and all of them would be the costliest part."""
            rows.append(inputs[0][0])
            return (inputs[0][:, -1:],)

        hook = head.register_forward_pre_hook(keep)
        try:
            for tokens in texts:
                self.model(tokens.unsqueeze(0).to(self.model.device), use_cache=False)
        finally:
            hook.remove()
        return [Passage(t, r) for t, r in zip(texts, rows, strict=True)]

    @torch.inference_mode()
    def top_tokens(self, rows: torch.Tensor) -> torch.Tensor:
        """The LM head's own top token on each row: [N, H] -> [N] int64."""
        head = self.model.get_output_embeddings()
        return torch.cat([head(part).argmax(dim=-1) for part in torch.split(rows, 256)])

    def _context(self) -> int:
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", WINDOW))

    def _starts(self, seed: int) -> torch.Tensor:
        """[SAMPLES, P] first tokens: openings of stories cut to one length, so that the batch needs
        no padding; without a tokenizer BOS, and without that random tokens."""
        if self.tokenizer is not None:
            ids = [self.tokenizer(text)["input_ids"] for text in OPENINGS[:SAMPLES]]
            shortest = min(len(row) for row in ids)
            return torch.tensor([row[:shortest] for row in ids], dtype=torch.int64)
        config = self.model.config.get_text_config()
        if isinstance(config.bos_token_id, int):
            return torch.full((SAMPLES, 1), config.bos_token_id, dtype=torch.int64)
        rng = random.Random(seed)
        return torch.tensor([[rng.randrange(config.vocab_size)] for _ in range(SAMPLES)])


def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    if not has_tokenizer(folder):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError):
        return None


def _as_list(value: Any) -> list[int]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def _until_end(row: torch.Tensor, start: int, ends: list[int]) -> torch.Tensor:
    """A generated row without what follows its first end token."""
    for place in range(start, len(row)):
        if int(row[place]) in ends:
            return row[: place + 1]
    return row
