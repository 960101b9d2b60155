"""On CPUs with several threads the tokens of a W8A8 target depend on how many arrive at once.

Attention over a longer context sums otherwise when other rows are beside one, in the last bits of
float32. A target whose activations are rounded to int8 makes steps of an int8 out of some of them,
and greedy answers turn. Plain decoding alone shows it: what follows a prompt, against what follows
the prompt and the first tokens of that answer. Run on 0.32.0 with AVX512-VNNI.

    OMP_NUM_THREADS=2 python int8_target.py FOLDER

FOLDER: a chat model in compressed-tensors W8A8, dynamic.
"""

from __future__ import annotations

import os
import sys

os.environ["VLLM_PLUGINS"] = ""  # without any plugin
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # as many threads as OMP_NUM_THREADS says

import torch
from vllm import LLM, SamplingParams

TOKENS, GIVEN = 48, (8, 16, 24)
BEFORE = (
    "The harbour lies at the mouth of a slow river. In the morning the boats come in with the "
    "tide, and those who wait for them stand on the quay with baskets, scales and loud "
    "opinions. By noon the market is over and the gulls have what is left. The old lighthouse "
    "was built of grey stone by the families of the town, who carried each block up the hill by "
    "hand. It has been dark since the new one was lit on the island, but a keeper still lives "
    "there, writes down the weather and paints the door every spring. Children say that he "
    "knows the name of every ship that passed. "
)
ASKED = (
    "Why is the sky blue?",
    "Write a poem about the sea.",
    "What is the capital of Peru, and what is it known for?",
    "Explain how a bicycle stays upright.",
    "Give three reasons to learn a language.",
    "How do plants drink?",
    "Describe a market in the morning.",
    "What is a prime number?",
    "Tell me a story about a fox.",
    "How is bread made?",
    "Why do leaves fall in autumn?",
    "Write a letter to a friend who moved away.",
)


def main() -> None:
    llm = LLM(
        sys.argv[1],
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=1,
        kv_cache_memory_bytes=2**28,
        gpu_memory_utilization=0.5,
        enable_prefix_caching=False,
    )
    apart = tried = 0
    for words in ASKED:
        talk = [{"role": "user", "content": BEFORE + words}]
        whole = llm.chat(talk, SamplingParams(temperature=0, max_tokens=TOKENS), use_tqdm=False)[0]
        answer = list(whole.outputs[0].token_ids)
        for given in GIVEN:
            if len(answer) <= given:
                continue
            begun = {"prompt_token_ids": [*(whole.prompt_token_ids or []), *answer[:given]]}
            rest = SamplingParams(temperature=0, max_tokens=TOKENS - given)
            again = llm.generate(begun, rest, use_tqdm=False)[0].outputs[0].token_ids
            apart += answer[given:] != list(again)
            tried += 1
    threads = torch.get_num_threads()
    print(f"{threads} thread(s): {apart} of {tried} answers go on otherwise")


if __name__ == "__main__":
    main()
