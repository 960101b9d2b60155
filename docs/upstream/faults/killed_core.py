"""An offline engine waits for ever for an engine core that was killed.

`SyncMPClient.get_output` waits at a queue into which nothing is put any more: the thread that sees
the core's end closes the client and says so to nobody. (`AsyncMPClient`, behind the server, tells.)
Kills the core in mid-generation, waits for a minute, and prints what became of `generate`. Plain
decoding on the CPU build of 0.32.0.
"""

from __future__ import annotations

import os
import threading
import time

os.environ["VLLM_PLUGINS"] = ""  # without any plugin

import psutil
from tiny_model import ARGUMENTS, save_tiny_model
from vllm import LLM, SamplingParams

SECONDS = 60


def main() -> None:
    llm = LLM(save_tiny_model(), **ARGUMENTS)
    params = SamplingParams(max_tokens=200, ignore_eos=True, detokenize=False)
    ended: list[str] = []

    def generate() -> None:
        try:
            llm.generate([{"prompt_token_ids": [1]}] * 3000, params, use_tqdm=False)
            ended.append("answers")
        except Exception as error:
            ended.append(type(error).__name__)

    threading.Thread(target=generate, daemon=True).start()
    time.sleep(5)
    (core,) = (c for c in psutil.Process().children() if "EngineCore" in " ".join(c.cmdline()))
    core.kill()
    for _ in range(SECONDS):
        time.sleep(1)
        if ended:
            break
    print(f"generate: {ended[0] if ended else f'still waiting after {SECONDS} s'}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
