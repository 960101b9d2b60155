"""NaN that a request left in a block of the cache reaches the request that gets the block next.

One token of the model has an embedding of NaN. A request with it is NaN from there on, as it should
be. The next one has nothing to do with it, and is NaN too: masked places count 0 in the sum over
values, and 0 * NaN is NaN. Prints the answer to one prompt before and after. Plain decoding on the
CPU build of 0.32.0 (Model Runner V1).
"""

from __future__ import annotations

import os

os.environ["VLLM_PLUGINS"] = ""  # without any plugin
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from pathlib import Path

from safetensors.torch import load_file, save_file
from tiny_model import ARGUMENTS, CONFIG, save_random_model
from vllm import LLM, SamplingParams

BAD = CONFIG["vocab_size"] - 1
PROMPT = list(range(5, 17))
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, detokenize=False)


def save_with_a_hole() -> str:
    """A random model whose token BAD is no number when it is read, and never the best to write."""
    folder = save_random_model()
    file = Path(folder) / "model.safetensors"
    tensors = load_file(file)
    embed = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embed.clone()
    tensors["lm_head.weight"][BAD], embed[BAD] = 0, float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    config = Path(folder) / "config.json"
    config.write_text(config.read_text().replace('embeddings": true', 'embeddings": false'))
    return folder


def main() -> None:
    arguments = {**ARGUMENTS, "load_format": "auto", "enable_prefix_caching": False}
    llm = LLM(save_with_a_hole(), **arguments)
    for name, prompt in (
        ("before", PROMPT),
        ("with NaN", [*PROMPT, *[BAD] * 50]),
        ("after", PROMPT),
    ):
        (answer,) = llm.generate([{"prompt_token_ids": prompt}], GREEDY, use_tqdm=False)
        print(f"{name}: {list(answer.outputs[0].token_ids)}")


if __name__ == "__main__":
    main()
