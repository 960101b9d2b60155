"""Top-k alone stops Model Runner V1 on a CPU once there is a speculative method.

The first step has no drafts, but is sampled by the rejection sampler all the same, which asks for
the largest top-k of no rows. Prints how it ends with n-gram drafts or, given the word `plain`,
without. Needs a CPU build of vLLM without Triton; run on 0.32.0.
"""

from __future__ import annotations

import os
import sys

os.environ["VLLM_PLUGINS"] = ""  # without any plugin
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from tiny_model import ARGUMENTS, NGRAM, save_tiny_model
from vllm import LLM, SamplingParams


def main() -> None:
    name = "plain" if "plain" in sys.argv else "ngram"
    llm = LLM(save_tiny_model(), speculative_config=NGRAM if name == "ngram" else None, **ARGUMENTS)
    asked = SamplingParams(temperature=1.0, top_k=5, max_tokens=8, ignore_eos=True)
    try:
        (answer,) = llm.generate({"prompt_token_ids": [1, 2, 3, 4]}, asked, use_tqdm=False)
        print(f"{name}: {len(answer.outputs[0].token_ids)} tokens")
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
