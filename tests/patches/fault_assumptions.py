"""What is taken for granted about vLLM where its faults are mended, and that it has them still."""

from __future__ import annotations

from collections.abc import Callable

from tests.patches.sources import Sources

V1 = "vllm.v1.sample"
V2 = "vllm.v1.worker.gpu"
OUTPUT = "vllm.v1.engine.output_processor"


def budgets_are_kept_in_states_we_take_along(vllm: Sources) -> None:
    module, holder = f"{V1}.thinking_budget_state", "ThinkingBudgetStateHolder"
    assert vllm.parameters(module, f"{holder}.update_state")[1:3] == [
        "output_token_ids",
        "spec_token_ids",
    ]
    assert vllm.parameters(module, f"{holder}.apply_to_logits")[1:] == [
        "logits",
        "predict_bonus_token",
        "spec_token_ids",
    ]
    made = vllm.source(module, f"{holder}.__init__")
    for attribute in ("in_spec_mode", "_state", "cu_num_tokens"):
        assert f"self.{attribute}" in made, attribute


def v1_gathers_log_probabilities_by_a_method_of_its_sampler(vllm: Sources) -> None:
    verifier = f"{V1}.rejection_sampler"
    assert vllm.parameters(verifier, "RejectionSampler.forward")[1:] == [
        "metadata",
        "draft_probs",
        "logits",
        "sampling_metadata",
    ]
    gathered = vllm.source(verifier, "RejectionSampler._get_logprobs_tensors")
    assert "return self.sampler.gather_logprobs(" in gathered
    assert "logprob_token_ids" not in vllm.source(verifier, "RejectionSampler.forward")
    specific = vllm.parameters(f"{V1}.sampler", "Sampler.gather_specific_token_logprobs")
    assert specific[1:] == ["logprobs", "logprob_token_ids", "sampled"]


def v2_scores_tokens_by_the_function_we_give_more(vllm: Sources) -> None:
    verifier = f"{V2}.spec_decode.rejection_sampler"
    assert vllm.parameters(verifier, "RejectionSampler.__init__")[2] == "spec_config"
    assert vllm.parameters(verifier, "RejectionSampler.__call__")[2] == "input_batch"
    scored = vllm.parameters(verifier, "RejectionSampler._get_logprobs_tensors")
    assert (scored[3], scored[-1]) == ("logits", "max_num_logprobs")
    # Four by their places, so that ours are the next three.
    assert vllm.parameters(f"{V2}.sample.logprob", "compute_topk_scores")[4:7] == [
        "logprob_token_ids_state",
        "expanded_idx_mapping",
        "max_per_req_token_ids",
    ]
    call = vllm.source(verifier, "RejectionSampler._get_logprobs_tensors")
    assert "cu_num_generated_tokens,\n            logits_mode=" in call


def answers_end_where_we_look(vllm: Sources) -> None:
    scheduler = "vllm.v1.core.sched.scheduler"
    stopped = vllm.source(scheduler, "Scheduler._handle_stopped_request")
    assert "request.num_computed_tokens - request.num_output_placeholders" in stopped
    assert "num_tokens" not in stopped.replace("num_computed_tokens", "")


def tokens_are_counted_before_stop_strings_are_looked_for(vllm: Sources) -> None:
    processed = vllm.source(OUTPUT, "OutputProcessor.process_outputs")
    counted, ended = "self._update_stats_from_output(", "self._update_stats_from_finished("
    assert processed.index(counted) < processed.index("self._trim_surplus_tokens(")
    assert processed.index("self._trim_surplus_tokens(") < processed.index(ended)
    assert vllm.parameters(OUTPUT, "OutputProcessor._update_stats_from_finished")[1:] == [
        "req_state",
        "finish_reason",
        "iteration_stats",
    ]


FAULT_ASSUMPTIONS: tuple[Callable[[Sources], None], ...] = (
    budgets_are_kept_in_states_we_take_along,
    v1_gathers_log_probabilities_by_a_method_of_its_sampler,
    v2_scores_tokens_by_the_function_we_give_more,
    answers_end_where_we_look,
    tokens_are_counted_before_stop_strings_are_looked_for,
)
