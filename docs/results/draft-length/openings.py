"""Openings of stories that the embedded checkpoint tells itself at temperature 1.

python docs/results/draft-length/openings.py COUNT OUTPUT.jsonl
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from vllm_lmtp.checkpoints.subject import subject_of
from vllm_lmtp.eval.engines.engine import Engine, prepare_environment

STARTS = ("Once upon a time", "One day", "There was a", "A little")
SHORTEST, LONGEST = 8, 40
"""Tokens behind a start."""


def main() -> None:
    count, output = int(sys.argv[1]), Path(sys.argv[2])
    prepare_environment(1)
    engine = Engine(
        subject_of(None, None).model, None, True,
        dtype="float32", max_num_seqs=64, max_model_len=256,
    )  # fmt: skip
    dice = random.Random(7)
    starts = [STARTS[i % len(STARTS)] for i in range(count)]
    lengths = [dice.randint(SHORTEST, LONGEST) for _ in starts]
    texts = engine.generate(starts, lengths, 1.0, 1000).texts
    stories = (start + text for start, text in zip(starts, texts, strict=True))
    output.write_text("".join(json.dumps({"prompt": story}) + "\n" for story in stories))


if __name__ == "__main__":
    main()
