"""With drafts `vllm:generation_tokens` counts tokens behind a stop string, which nobody is given.

An answer that repeats itself is asked for again, to be stopped by what its first tokens say. Prints
how many tokens were given and how many were counted with n-gram drafts or, given the word `plain`,
without. Run on the CPU build of 0.32.0.
"""

from __future__ import annotations

import os
import sys

os.environ["VLLM_PLUGINS"] = ""  # without any plugin
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from tiny_model import ARGUMENTS, NGRAM, save_tiny_model, save_tokenizer
from vllm import LLM, SamplingParams


def counted(llm: LLM) -> int:
    return sum(m.value for m in llm.get_metrics() if m.name == "vllm:generation_tokens")


def main() -> None:
    name = "plain" if "plain" in sys.argv else "ngram"
    folder = save_tiny_model()
    save_tokenizer(folder)
    llm = LLM(
        folder,
        speculative_config=NGRAM if name == "ngram" else None,
        **ARGUMENTS | {"skip_tokenizer_init": False, "disable_log_stats": False},
    )

    def ask(most: int, stop: list[str]) -> str:
        before = counted(llm)
        asked = SamplingParams(temperature=0, max_tokens=most, ignore_eos=True, stop=stop)
        (answer,) = llm.generate({"prompt_token_ids": [1, 2, 3]}, asked, use_tqdm=False)
        given = len(answer.outputs[0].token_ids)
        print(f"{name}: {given} given, {counted(llm) - before} counted")
        return answer.outputs[0].text

    ask(40, [ask(9, [])])


if __name__ == "__main__":
    main()
