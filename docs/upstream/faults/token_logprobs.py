"""With drafts vLLM loses the log-probabilities that a request asks for by `logprob_token_ids`.

Each token should come with those of two named tokens. Prints for how many tokens they came with
n-gram drafts or, given the word `plain`, without; then the same beside a request with `logprobs`,
which stops the engine. Run on the CPU build of 0.32.0 (Model Runner V1). V2 loses them, too.
"""

from __future__ import annotations

import os
import sys

os.environ["VLLM_PLUGINS"] = ""  # without any plugin
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from tiny_model import ARGUMENTS, NGRAM, save_tiny_model
from vllm import LLM, SamplingParams

PROMPTS = [{"prompt_token_ids": [n, 8, 9, n, 8]} for n in (1, 2)]
NAMED = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True, logprob_token_ids=[5, 6])
BEST = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True, logprobs=1)


def main() -> None:
    name = "plain" if "plain" in sys.argv else "ngram"
    llm = LLM(save_tiny_model(), speculative_config=NGRAM if name == "ngram" else None, **ARGUMENTS)
    for asked in ([NAMED], [NAMED, BEST]):
        try:
            answers = llm.generate(PROMPTS[: len(asked)], asked, use_tqdm=False)
            answer = answers[0].outputs[0]
            print(f"{name}: {len(answer.logprobs)} of {len(answer.token_ids)} tokens")
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
