"""A load that changes from one stream to many and back, plainly and with a draft length found while
serving: how fast is any window of ten seconds beside plain decoding under the same load?

python changing_load.py OUTPUT.json [MANY [SECONDS]]

A picture is written beside OUTPUT.json. Both engines serve the embedded checkpoint on one thread.
Each answers for SECONDS with one request in flight, then with MANY, then with one; they take turns
phase by phase, so that both see the same machine. A request that ends is followed by the next at
once.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PROMPTS = ROOT / "docs" / "results" / "stories15m" / "openings.jsonl"
WINDOW, TOKENS, ROUNDS = 10.0, 256, 3


class Server:
    """One engine, asked for as many answers at once as the load says."""

    def __init__(self, speculative_config: str | None) -> None:
        from vllm import LLM

        self.engine = LLM(
            str(ROOT / "vllm_lmtp" / "checkpoints" / "tiny"),
            dtype="float32",
            enforce_eager=True,
            speculative_config=speculative_config,
            seed=0,
            max_num_seqs=64,
            enable_prefix_caching=False,
            disable_log_stats=False,
        ).llm_engine
        lines = PROMPTS.read_text().splitlines()
        self.prompts = [json.loads(line)["prompt"] for line in lines]
        self.asked = 0
        self.written: dict[str, int] = {}

    def serve(self, streams: int, seconds: float) -> list[tuple[float, int]]:
        """(when, tokens) of every step, seconds since the phase began."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
        start, steps = time.perf_counter(), []
        while (now := time.perf_counter() - start) < seconds:
            while len(self.written) < streams:
                prompt = self.prompts[self.asked % len(self.prompts)]
                self.engine.add_request(str(self.asked), prompt, params)
                self.written[str(self.asked)] = 0
                self.asked += 1
            new = 0
            for output in self.engine.step():
                count = len(output.outputs[0].token_ids)
                new += count - self.written[output.request_id]
                self.written[output.request_id] = count
                if output.finished:
                    del self.written[output.request_id]
            steps.append((now, new))
        return steps


def windows(steps: list[tuple[float, int]], seconds: float) -> list[float]:
    """Tokens a second of each whole window, one beginning every second."""
    starts = [float(s) for s in range(int(seconds - WINDOW) + 1)]
    return [
        sum(tokens for at, tokens in steps if start <= at < start + WINDOW) / WINDOW
        for start in starts
    ]


def draw(phases: list[dict[str, Any]], seconds: float, file: Path) -> None:
    """Every window over plain decoding's median of its phase, in the order in which they ran."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
    for name, colour in (("plain", "0.6"), ("automatic", "tab:blue")):
        for number, phase in enumerate(phases):
            speeds = phase[f"{name}_windows"]
            times = [number * seconds + WINDOW + i for i in range(len(speeds))]
            axes.plot(times, speeds, color=colour, label=name if not number else None)
    for number, phase in enumerate(phases):
        axes.axvline(number * seconds, color="0.85", linewidth=0.8)
        axes.text((number + 0.5) * seconds, 0.02, f"{phase['streams']}", ha="center",
                  transform=axes.get_xaxis_transform())  # fmt: skip
    axes.axhline(0.95, color="tab:red", linewidth=0.8, linestyle="--")
    axes.set_xlabel("seconds of load (below: streams); each point is a window of 10 s")
    axes.set_ylabel("speed over plain decoding")
    axes.set_ylim(0, None)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=120)


def main(output: Path, many: int, seconds: float) -> None:
    """Measure, print and write."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    servers = {"plain": Server(None), "automatic": Server("lmtp")}
    found: list[dict[str, Any]] = []
    for number in range(ROUNDS):
        for phase, streams in enumerate((1, many, 1)):
            speeds: dict[str, list[float]] = {}
            for name in list(servers)[:: 1 if number % 2 else -1]:
                speeds[name] = windows(servers[name].serve(streams, seconds), seconds)
            plain = statistics.median(speeds["plain"])
            entry = {
                "round": number + 1,
                "phase": phase + 1,
                "streams": streams,
                "plain_tokens_per_second": plain,
                "plain_windows": [round(speed / plain, 3) for speed in speeds["plain"]],
                "automatic_windows": [round(speed / plain, 3) for speed in speeds["automatic"]],
            }
            found.append(entry)
            shown = ", ".join(
                f"{name} {min(entry[f'{name}_windows']):.2f}-{max(entry[f'{name}_windows']):.2f}"
                for name in servers
            )
            print(f"round {number + 1}, {streams} stream(s): plain {plain:.0f} tokens/s; {shown}")
    sys.path.insert(0, str(ROOT))
    from vllm_lmtp.eval.provenance import provenance

    command = f"python {Path(__file__).name} {output.name} {many} {seconds:g}"
    result = {
        "provenance": provenance([], 0) | {"command": command},
        "seconds": seconds,
        "phases": found,
    }
    output.write_text(json.dumps(result, indent=1) + "\n")
    draw(found, seconds, output.with_suffix(".png"))


if __name__ == "__main__":
    words = sys.argv[1:]
    main(Path(words[0]), int((words[1:] or ["32"])[0]), float((words[2:] or ["30"])[0]))
