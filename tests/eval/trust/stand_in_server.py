"""A server over HTTP that answers by a rule, and is at fault in a known way if it is told to be."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.eval.trust.test_counters import agreeing
from vllm_lmtp.eval.engines.process import EngineFailedError
from vllm_lmtp.eval.trust.counters import CACHE_IN_USE, ENDED, LEVELS, RUNNING
from vllm_lmtp.eval.trust.outcome import SIGNS

TOKEN_SECONDS = 0.001


def answer_of(prompt: list[int], model: str, tokens: int) -> list[int]:
    """Each prompt and model has an answer of its own."""
    start = 31 * sum(prompt) + len(model)
    return [(start + 7 * place) % 9973 for place in range(tokens)]


class StandInServer:
    """`servers.Server` with a fault where L-MTP serves.

    fault: "lies": a token is another. "mixes": the answer to another prompt. "refuses": an error.
    "breaks off": streams end before the answer. "hoards": a request is never over. "falls":
    counters do. "drafts": their sums do not agree. "tears": they do not agree yet, and a request
    runs; "tears at rest": none does. "dies": it does not start.
    """

    fault = ""
    closed = 0

    def __init__(
        self,
        model: str,
        config: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        log: Path,
        cache_gib: int,
    ) -> None:
        self.speculates = config is not None
        self.fault = StandInServer.fault if self.speculates else ""
        if self.fault == "dies":
            raise EngineFailedError("it does not start")
        self.log, self.pid = log, os.getpid()
        log.write_text("all is well\nERROR but for this\n")
        self.options = options
        self.counts: Counter[str] = Counter()
        self.asked = self.told = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer._complete(self, body)

            def do_GET(self) -> None:
                _send(self, outer._metrics().encode(), "text/plain")

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        StandInServer.closed += 1
        self._http.shutdown()
        self._http.server_close()

    def _complete(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            self.asked += 1
            faulty = self.asked % 5 == 0
        fault = self.fault if faulty else ""
        prompt = body["prompt"]
        tokens = answer_of(prompt, body["model"], body["max_tokens"])
        if fault == "lies":
            tokens[-1] += 1
        elif fault == "mixes" and self.others:
            # So short that the other prompt's known answer is as long.
            tokens = answer_of(self.others, body["model"], min(body["max_tokens"], SIGNS))
        elif fault == "refuses":
            handler.send_error(500)
            return
        self.others = prompt
        if not body["stream"]:
            time.sleep(TOKEN_SECONDS * len(tokens))
            choice = {"token_ids": tokens, "finish_reason": "length"}
            _send(handler, json.dumps({"choices": [choice]}).encode(), "application/json")
        elif not self._stream(handler, tokens, fault == "breaks off"):
            return
        with self._lock:
            self.counts["length"] += 1

    others: list[int] = []  # noqa: RUF012

    def _stream(self, handler: BaseHTTPRequestHandler, tokens: list[int], breaks: bool) -> bool:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        parts = [tokens[i : i + 3] for i in range(0, len(tokens), 3)]
        try:
            for number, part in enumerate(parts):
                reason = "length" if number == len(parts) - 1 else None
                if breaks and reason:
                    return False
                choice = {"token_ids": part, "finish_reason": reason}
                line = "data: " + json.dumps({"choices": [choice]}) + "\n\n"
                handler.wfile.write(line.encode())
                time.sleep(TOKEN_SECONDS)
            handler.wfile.write(b"data: [DONE]\n\n")
        except OSError:  # the client has left
            return False
        return True

    def _metrics(self) -> str:
        with self._lock:
            self.told += 1
            ended = self.counts["length"]
        found: Counter[str] = Counter()
        levels = dict.fromkeys(LEVELS, 0.0)
        if self.speculates:
            found.update(agreeing())
            if self.fault == "falls" and self.told > 2:
                found = Counter(dict.fromkeys(found, 0))
            if self.fault == "drafts":
                found["vllm:spec_decode_num_drafts"] = 1
            if self.fault.startswith("tears") and self.told < 3:
                found["vllm:spec_decode_num_draft_tokens"] -= 1
                levels[RUNNING] = float(self.fault == "tears")
            if self.fault == "hoards":
                levels |= {RUNNING: 1.0, CACHE_IN_USE: 0.1}
        lines = [
            f"# TYPE {ENDED}_total counter",
            f'{ENDED}_total{{finished_reason="length"}} {ended}',
        ]
        for key, value in found.items():
            name, _, labels = key.partition("{")
            words = [word.split("=") for word in labels.rstrip("}").split(",") if word]
            shown = ",".join(f'{label}="{value}"' for label, value in words)
            lines += [f"# TYPE {name}_total counter", f"{name}_total{{{shown}}} {value}"]
        for name, level in levels.items():
            lines += [f"# TYPE {name} gauge", f"{name} {level}"]
        return "\n".join(lines) + "\n"


def _send(handler: BaseHTTPRequestHandler, body: bytes, kind: str) -> None:
    try:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
    except OSError:  # the client has left
        pass
