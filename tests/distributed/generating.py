"""A program that generates offline, for the tests that spoil something meanwhile.

python -m tests.distributed.generating FOLDER PROMPTS ENGINE LONG...: prompts and the engine's
options as JSON. LONG prompts of one token follow, of which many take minutes, and then the first
ones again; and so on with the next LONG.
"""

import json
import sys

SERVED, GENERATING = "<<served>>", "<<generating>>"


def main(folder: str, prompts: str, engine: str, *longs: str) -> None:
    from vllm import LLM, SamplingParams

    llm = LLM(
        folder,
        speculative_config="lmtp",
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=4,
        skip_tokenizer_init=True,
        **json.loads(engine),
    )

    def generate(tokens: list[list[int]], limit: int) -> list[list[int]]:
        greedy = SamplingParams(temperature=0, max_tokens=limit, ignore_eos=True, detokenize=False)
        inputs = [{"prompt_token_ids": prompt} for prompt in tokens]
        outputs = llm.generate(inputs, greedy, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    def serve() -> None:
        print(SERVED, json.dumps(generate(json.loads(prompts), 20)), flush=True)

    serve()
    for long in map(int, longs):
        print(GENERATING, flush=True)
        generate([[token % 500] for token in range(long)], 400)
        serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
