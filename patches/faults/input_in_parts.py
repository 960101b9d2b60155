"""Goes on from where a request's own tokens end, when its input comes in parts."""

from __future__ import annotations

from typing import Any

from vllm_lmtp import METHOD
from vllm_lmtp.patches.record import Binding, Patch, around


def _stopped(wrapped: Any, scheduler: Any, args: Any, kwargs: Any) -> Any:
    def call(request: Any) -> Any:
        config = scheduler.vllm_config.speculative_config
        if request.resumable and config is not None and config.method == METHOD:
            # The last token is never computed yet, unless a draft of what follows was accepted.
            most = request.num_tokens - 1 + request.num_output_placeholders
            request.num_computed_tokens = min(request.num_computed_tokens, most)
        return wrapped(request)

    return call(*args, **kwargs)


PATCH = Patch(
    name="input_in_parts",
    why="When an answer ends, vLLM takes all that was computed for the request's text, also drafts "
    "accepted behind its last token. The next part of its input is then read behind tokens that "
    "nobody was given, with every speculative method.",
    bindings=(
        Binding(
            "vllm.v1.core.sched.scheduler", "Scheduler._handle_stopped_request", around(_stopped)
        ),
    ),
    written_against="vllm/v1/core/sched/scheduler.py, Scheduler._handle_stopped_request and "
    "_update_request_as_session (0.32.0, 0.33.0)",
    upstream="not reported yet; seen on 0.32.0 with ngram as well",
    remove_when="_handle_stopped_request leaves out tokens behind the end of the answer",
)
