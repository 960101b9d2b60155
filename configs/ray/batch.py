"""Offline batch over a Ray cluster: prompts, one a line, from stdin; answers as JSON lines.

RAY_ADDRESS=HEAD:6379 VLLM_HOST_IP=HEAD python configs/ray/batch.py CHECKPOINT [TP] < prompts.txt
"""

import json
import sys


def main() -> None:
    from vllm import LLM, SamplingParams

    llm = LLM(
        sys.argv[1],
        speculative_config="lmtp",
        distributed_executor_backend="ray",
        tensor_parallel_size=int(sys.argv[2]) if len(sys.argv) > 2 else 2,
    )
    prompts = [line.rstrip("\n") for line in sys.stdin]
    for output in llm.generate(prompts, SamplingParams(temperature=0, max_tokens=256)):
        print(json.dumps({"prompt": output.prompt, "text": output.outputs[0].text}))


if __name__ == "__main__":
    main()
