"""Offline batch with Ray Data: prompts, one a line of a file; answers as JSON lines.

RAY_ADDRESS=HEAD:6379 python configs/ray/batch.py CHECKPOINT PROMPTS [REPLICAS [ENGINE]]

REPLICAS engines share the prompts, on whichever nodes have room. ENGINE: vLLM's options as JSON;
{"tensor_parallel_size": 2} splits each engine over two GPUs, of two nodes if need be.
"""

import json
import sys


def main(checkpoint: str, prompts: str, replicas: str = "1", engine: str = "{}") -> None:
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    ray.init(address="auto", log_to_driver=False)  # or workers' logs would be among the answers
    config = vLLMEngineProcessorConfig(
        model_source=checkpoint,
        engine_kwargs={"speculative_config": {"method": "lmtp"}, **json.loads(engine)},
        concurrency=int(replicas),
        batch_size=64,
        chat_template_stage=False,  # the prompts are complete as they are
    )
    process = build_processor(
        config,
        preprocess=lambda row: {
            "prompt": row["prompt"],
            "sampling_params": {"temperature": 0, "max_tokens": 256},
        },
        postprocess=lambda row: {"prompt": row["prompt"], "text": row["generated_text"]},
    )
    with open(prompts) as lines:
        rows = [{"prompt": line.rstrip("\n")} for line in lines]
    for answer in process(ray.data.from_items(rows)).iter_rows():
        print(json.dumps({"prompt": answer["prompt"], "text": answer["text"]}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
