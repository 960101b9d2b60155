"""With drafts vLLM skips tokens of the second part of an input that comes in parts.

A prompt of six tokens is answered by four, and two drafts behind the last of them were accepted,
too. These count as computed when the next part is put behind the answer, so its first token never
is. Prints what follows for the next part, without drafts and with them. Run on 0.32.0.
"""

from __future__ import annotations

import os
from collections import deque
from types import MethodType, SimpleNamespace
from typing import Any

os.environ["VLLM_PLUGINS"] = ""  # without any plugin

from vllm import SamplingParams
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus, StreamingUpdate

PROMPT, ANSWER, PART = [1, 2, 3, 4, 5, 6], [11, 12, 13, 14], [21, 22, 23]


def go_on(accepted_behind_the_end: int) -> tuple[list[int], list[int]]:
    """Tokens of the request that count as computed, and those that are still to be."""
    asked = SamplingParams(max_tokens=len(ANSWER))
    request = Request("one", list(PROMPT), asked, pooling_params=None, resumable=True)
    request.append_output_token_ids(ANSWER)
    request.status = RequestStatus.FINISHED_LENGTH_CAPPED
    # As `update_from_output` leaves it: without the tokens that were just sampled, which is the
    # last one or what follows the accepted drafts.
    request.num_computed_tokens = request.num_tokens - 1 + accepted_behind_the_end
    update = StreamingUpdate(None, list(PART), asked.max_tokens, 0.0, asked)
    request.streaming_queue = deque([update])
    scheduler: Any = SimpleNamespace(
        hash_block_size=16, log_stats=False, _enqueue_waiting_request=lambda request: None
    )
    scheduler._update_request_as_session = MethodType(
        Scheduler._update_request_as_session, scheduler
    )
    Scheduler._handle_stopped_request(scheduler, request)
    tokens, computed = list(request.all_token_ids), request.num_computed_tokens
    return tokens[:computed], tokens[computed:]


def main() -> None:
    for accepted in (0, 2):
        computed, left = go_on(accepted)
        print(f"{accepted} behind the end: {computed} count as computed, {left} are left")


if __name__ == "__main__":
    main()
