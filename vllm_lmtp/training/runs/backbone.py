"""Train a small Llama backbone from nothing on texts sampled from a teacher.

The result is an ordinary Hugging Face model without heads; `stage1` adds them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Trainer

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.whole import whole_folder, write_json
from vllm_lmtp.training.data.corpus import read_corpus, shard_paths
from vllm_lmtp.training.data.rows import pack
from vllm_lmtp.training.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, train_tokenizer
from vllm_lmtp.training.model.layout import round_to_bfloat16, write_plain
from vllm_lmtp.training.runs.report import model_log, story_samples
from vllm_lmtp.training.runs.trainer import last_checkpoint, loss_history, training_arguments
from vllm_lmtp.training.settings.stages import BackboneRun, ModelConfig

log = logging.getLogger(__name__)


def build_model(config: ModelConfig) -> LlamaForCausalLM:
    """A Llama model with random weights, float32, embeddings tied."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.attention_heads,
            num_key_value_heads=config.attention_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_positions,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=BOS_ID,
            eos_token_id=EOS_ID,
            pad_token_id=PAD_ID,
        )
    )


def packed_rows(
    documents: Sequence[Sequence[int]], rows: int, row_tokens: int, seed: int
) -> Tensor:
    """At least `rows` packed rows: the documents packed again, in another order, each epoch."""
    packs: list[Tensor] = []
    while sum(len(p) for p in packs) < rows:
        packs.append(pack(documents, row_tokens, seed + len(packs)))
        if not len(packs[-1]):
            raise refuse(
                "training file",
                "row_tokens",
                found=row_tokens,
                expected="no more than the tokens of the corpus",
                remedy="sample more texts, or shorten the rows",
            )
    return torch.cat(packs)


def collate(rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """A batch of packed rows; the model shifts the labels itself."""
    ids = torch.stack(list(rows)).long()
    return {"input_ids": ids, "labels": ids}


@torch.no_grad()
def held_out_loss(model: PreTrainedModel, documents: Sequence[Sequence[int]], width: int) -> float:
    """Mean negative log-likelihood a token, in nats, of whole documents (BOS excluded)."""
    total, count = 0.0, 0
    for document in documents:
        ids = torch.tensor([list(document[:width])])
        tokens = ids.shape[1] - 1
        total += float(model(input_ids=ids, labels=ids).loss) * tokens
        count += tokens
    return total / max(1, count)


def train_backbone(run: BackboneRun, config_path: Path) -> dict[str, Any]:
    """Train on the shards in the run's `corpus` folder and save to its `model` folder.

    Resumes from the newest Trainer checkpoint of an interrupted run.

    Returns:
        The training log, as written beside the model.
    """
    started = time.monotonic()
    torch.set_num_threads(run.threads)
    torch.manual_seed(run.seed)
    output = Path(run.output)
    corpus = read_corpus(shard_paths(output / "corpus"))
    train, held_out = corpus.split(run.held_out)
    tokenizer = train_tokenizer(
        (r["text"] for r in train), run.model.vocab_size, run.model.max_positions
    )
    documents = [[*ids, EOS_ID] for ids in tokenizer([r["text"] for r in train])["input_ids"]]
    held = [[*ids, EOS_ID] for ids in tokenizer([r["text"] for r in held_out])["input_ids"]]
    tokens = sum(map(len, documents))
    assert run.optim.steps is not None
    seen = run.optim.steps * run.optim.step_rows(devices=1)
    rows = packed_rows(documents, seen, run.row_tokens, run.seed)
    epochs = seen * run.row_tokens / tokens
    log.info("%d texts, %d tokens, %.1f epochs", len(documents), tokens, epochs)

    model = build_model(run.model)
    trainer = Trainer(
        model=model,
        args=training_arguments(run.optim, output / "work", run.seed, rows=len(rows), on_cpu=True),
        train_dataset=rows,
        data_collator=collate,
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(output / "work"))

    # Everything below describes the weights as they are saved, rounded to bfloat16.
    model.eval()
    round_to_bfloat16(model)
    loss = held_out_loss(model, held, run.model.max_positions)
    content = model_log(config_path, run) | {
        "corpus": corpus.counts | {"train_texts": len(train), "train_tokens": tokens},
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out_loss": round(loss, 4),
        "held_out_perplexity": round(math.exp(loss), 3),
        "seconds": round(time.monotonic() - started),
        "history": loss_history(trainer.state.log_history),
        "samples": story_samples(model, tokenizer, run.seed),
    }
    with whole_folder(output / "model") as folder:
        write_plain(folder, model, tokenizer)
        write_json(folder / "training_log.json", content)
    return content
