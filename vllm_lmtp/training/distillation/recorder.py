"""Keeps the hidden states that a vLLM worker feeds its LM head while it answers prompts.

Heads learn from exactly these rows. Taken while the answers are sampled they cost nothing, where
reading the answers again with transformers would take as long as sampling them did; and they are
the rows that vLLM will hand to the heads when they serve.

A worker extension (`worker_extension_cls`): vLLM adds the class to its worker, and the methods are
called through `LLM.collective_rpc`. A text's rows begin at the last token of its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_lmtp.formats.whole import room_for, whole_file

CLASS_PATH = "vllm_lmtp.training.distillation.recorder.RowRecorder"


class RowRecorder:
    """Methods that vLLM adds to its worker; both do nothing on a worker without the LM head."""

    model_runner: Any

    def lmtp_record_rows(self) -> None:
        """Start to keep rows. Call it once, before the first request."""
        runner = self.model_runner
        runner.lmtp_steps = steps = []
        if hasattr(runner, "sample"):  # Runner V2 hands its batch to this method
            sample = runner.sample

            def sample_and_keep(hidden_states: Any, input_batch: Any, *args: Any) -> Any:
                rows = hidden_states[input_batch.logits_indices]
                steps.append((list(input_batch.req_ids), rows.cpu().clone()))
                return sample(hidden_states, input_batch, *args)

            runner.sample = sample_and_keep
        elif hasattr(runner.model, "compute_logits"):
            compute_logits = runner.model.compute_logits

            def compute_and_keep(rows: Any, *args: Any) -> Any:
                steps.append((list(runner.input_batch.req_ids), rows.cpu().clone()))
                return compute_logits(rows, *args)

            runner.model.compute_logits = compute_and_keep

    def lmtp_write_rows(
        self, path: str, request_ids: Sequence[str], num_sampled: Sequence[int]
    ) -> None:
        """Write the rows kept since the last call, in the order of `request_ids`, and forget them.

        The file (safetensors) holds `rows` [N, H] and `bounds` int64 [len(request_ids) + 1]: text
        i has the rows bounds[i] to bounds[i + 1], one for each token that was sampled. Where vLLM
        schedules ahead, a request that ends has been computed one step further; that row is left.

        Args:
            num_sampled: tokens sampled for each request, the one that ended it included.

        Raises:
            ValueError: a request has fewer rows.
            LMTPError: the file cannot be written.
        """
        import torch
        from safetensors.torch import save_file

        steps = self.model_runner.lmtp_steps
        if not steps or _tensor_parallel_rank():
            steps.clear()
            return
        by_request: dict[str, list[torch.Tensor]] = {name: [] for name in request_ids}
        for ids, rows in steps:
            for name, row in zip(ids, rows, strict=True):
                # vLLM appends a random suffix to the ids it gave.
                by_request[name if name in by_request else name.rsplit("-", 1)[0]].append(row)
        steps.clear()
        kept = [
            by_request[name][:count] for name, count in zip(request_ids, num_sampled, strict=True)
        ]
        found = list(map(len, kept))
        if found != list(num_sampled):
            raise ValueError(f"rows kept: {found}, tokens sampled: {list(num_sampled)}")
        stacked = torch.stack([row for rows in kept for row in rows])
        with room_for(Path(path)), whole_file(Path(path)) as part:
            save_file({"rows": stacked, "bounds": torch.tensor([0, *found]).cumsum(0)}, part)


def _tensor_parallel_rank() -> int:
    """Every rank of a tensor-parallel group has the same rows; the first writes them."""
    from vllm.distributed import get_tensor_model_parallel_rank

    return int(get_tensor_model_parallel_rank())
