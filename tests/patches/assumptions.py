"""What our wrappers take for granted about vLLM, as checks that any unpacked version can be put to.

Each check raises or asserts with the name of what has changed upstream.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import vllm_lmtp
from tests.patches.fault_assumptions import FAULT_ASSUMPTIONS
from tests.patches.sources import Sources
from vllm_lmtp.patches import PATCHES

ARGS = "vllm.engine.arg_utils"
V2 = "vllm.v1.worker.gpu"
SPEC_DECODE = f"{V2}.spec_decode"
STATES = f"{V2}.states"
OURS = Sources(Path(vllm_lmtp.__file__).parent.parent)


def every_binding_exists(vllm: Sources) -> None:
    for patch in PATCHES:
        for binding in patch.bindings:
            vllm.find(binding.module, binding.attribute)


def command_line_has_the_options_we_widen(vllm: Sources) -> None:
    text = vllm.text(ARGS)
    for option in ('"--speculative-config"', '"--spec-method"'):
        assert option in text, option


def engine_args_have_the_fields_we_read(vllm: Sources) -> None:
    names = ("speculative_config", "spec_method", "spec_model", "async_scheduling")
    for field in (*names, "model", "revision", "hf_overrides"):
        vllm.find(ARGS, f"EngineArgs.{field}")


def speculative_config_is_built_from_the_name_we_swap(vllm: Sources) -> None:
    vllm.find(ARGS, "SpeculativeConfig")
    assert "return SpeculativeConfig(**self.speculative_config)" in vllm.text(ARGS)


def speculative_config_has_the_fields_we_set(vllm: Sources) -> None:
    for field in (
        "method",
        "model",
        "revision",
        "num_speculative_tokens",
        "prompt_lookup_max",
        "prompt_lookup_min",
        "target_model_config",
        "target_parallel_config",
        "draft_model_config",
        "draft_parallel_config",
    ):
        vllm.find("vllm.config.speculative", f"SpeculativeConfig.{field}")


def every_option_we_refuse_exists(vllm: Sources) -> None:
    from vllm_lmtp.config.fit import UNSUPPORTED

    for field in (*(rule.field for rule in UNSUPPORTED), "draft_tensor_parallel_size"):
        vllm.find("vllm.config.speculative", f"SpeculativeConfig.{field}")


def async_methods_are_asked_of_the_name_we_widen(vllm: Sources) -> None:
    assert "get_args(EagleModelTypes)" in vllm.text("vllm.config.vllm")


def model_config_is_the_loaders_second_argument(vllm: Sources) -> None:
    loader = "vllm.model_executor.model_loader.base_loader"
    parameters = vllm.parameters(loader, "BaseModelLoader.create_model")
    assert parameters[:3] == ["self", "vllm_config", "model_config"]


def runner_v1_is_built_from_the_config(vllm: Sources) -> None:
    runner = "vllm.v1.worker.gpu_model_runner"
    assert vllm.parameters(runner, "GPUModelRunner.__init__")[:2] == ["self", "vllm_config"]
    text = vllm.text(runner)
    for name in ('"custom_class"', "effective_drafter_max_model_len", "num_spec_tokens"):
        assert name in text, name


def runner_v1_hands_our_proposer_what_it_takes(vllm: Sources) -> None:
    theirs = vllm.parameters(
        "vllm.v1.worker.gpu_model_runner", "GPUModelRunner.propose_draft_token_ids"
    )
    assert theirs == OURS.parameters("vllm_lmtp.runner_v1.proposer", "LMTPProposer.propose")


def in_order(text: str, *parts: str) -> None:
    """Each part stands in the text once, behind the one before it."""
    for part in parts:
        assert text.count(part) == 1, f"{part}: {text.count(part)} times"
    places = [text.index(part) for part in parts]
    assert places == sorted(places), parts


def runner_v2_builds_speculators_from_the_config(vllm: Sources) -> None:
    parameters = vllm.parameters(SPEC_DECODE, "init_speculator")
    assert parameters == ["vllm_config", "device", "req_states"]
    built = vllm.source(f"{V2}.model_runner", "GPUModelRunner.__init__")
    in_order(built, "init_speculator(", "self.vllm_config, self.device, self.req_states")


def runner_v2_hands_nobody_the_texts_before_us(vllm: Sources) -> None:
    """texts.SlotTexts puts a tensor of its own into the state; who kept the old one would go on
    with texts that nobody writes."""
    built = vllm.source(f"{V2}.model_runner", "GPUModelRunner.__init__")
    before, _ = built.split("init_speculator(", 1)
    assert before.count("self.req_states") == 1
    assert "self.req_states = RequestState(" in before


def runner_v2_keeps_the_texts_we_read(vllm: Sources) -> None:
    states = vllm.source(STATES, "RequestState.__init__")
    for size in ("max_num_reqs", "max_model_len"):
        assert f"self.{size} = {size}" in states, size
    _, texts = states.split("self.all_token_ids = StagedWriteTensor(", 1)
    in_order(texts.split(")\n", 1)[0], "(self.max_num_reqs, self.max_model_len)", "torch.int32")
    _, lengths = states.split("self.total_len = StagedWriteTensor(", 1)
    in_order(lengths.split(")\n", 1)[0], "self.max_num_reqs", "torch.int32")
    staged = f"{V2}.buffer_utils"
    parameters = vllm.parameters(staged, "StagedWriteTensor.__init__")
    assert parameters[:4] == ["self", "size", "dtype", "device"]
    assert "self.gpu = " in vllm.source(staged, "StagedWriteTensor.__init__")


def runner_v2_writes_what_was_sampled_before_it_drafts(vllm: Sources) -> None:
    runner = f"{V2}.model_runner"
    step = vllm.source(runner, "GPUModelRunner.sample_tokens")
    in_order(step, "self.postprocess_sampled(", "self.speculator.propose(")
    written = vllm.source(runner, "GPUModelRunner.postprocess_sampled")
    in_order(written, "self.req_states.all_token_ids.gpu", "self.req_states.total_len.gpu")


def runner_v1_keeps_the_texts_we_read(vllm: Sources) -> None:
    batch = "vllm.v1.worker.gpu_input_batch"
    built = vllm.source(batch, "InputBatch.__init__")
    for name in ("token_ids_cpu", "num_tokens_no_spec", "is_token_ids"):
        assert f"self.{name} = self." in built, name
    vllm.find(batch, "InputBatch.req_ids")


def runner_v1_writes_what_was_sampled_before_it_drafts(vllm: Sources) -> None:
    runner = "vllm.v1.worker.gpu_model_runner"
    step = vllm.source(runner, "GPUModelRunner.sample_tokens")
    in_order(
        step, "self._bookkeeping_sync(", "        propose_draft_token_ids(valid_sampled_token_ids)"
    )
    written = vllm.source(runner, "GPUModelRunner._bookkeeping_sync")
    for name in ("token_ids_cpu", "num_tokens_no_spec", "is_token_ids"):
        assert f"self.input_batch.{name}[req_idx" in written, name


def runner_v2_hands_our_speculator_what_it_takes(vllm: Sources) -> None:
    theirs = vllm.parameters(f"{SPEC_DECODE}.speculator", "BaseSpeculator.propose")
    ours = OURS.parameters("vllm_lmtp.runner_v2.speculator", "LMTPSpeculator.propose")
    by_position = ours.index("seeds") + 1
    assert ours[:by_position] == theirs[:by_position]
    assert set(ours[by_position:]) <= set(theirs)


def runner_v2_draws_and_keeps_as_we_ask(vllm: Sources) -> None:
    parameters = vllm.parameters("vllm.v1.worker.gpu.sample.gumbel", "gumbel_sample")
    assert parameters[:5] == ["logits", "expanded_idx_mapping", "temperature", "seed", "pos"]
    asked = ("apply_temperature", "is_drafting", "logits_cache", "logits_cache_col", "use_fp64")
    assert set(asked) <= set(parameters)
    text = vllm.text(f"{SPEC_DECODE}.speculator")
    for name in ("draft_logits", "draft_token_confidence_probs", "use_acceptance_estimator"):
        assert f"self.{name}" in text, name
    runner = vllm.text("vllm.v1.worker.gpu.model_runner")
    for use in ("self.speculator.draft_logits", "self.speculator.draft_token_confidence_probs"):
        assert use in runner, use


def runner_v1_samples_plainly_without_metadata(vllm: Sources) -> None:
    runner = "vllm.v1.worker.gpu_model_runner"
    parameters = vllm.parameters(runner, "GPUModelRunner._sample")
    assert parameters == ["self", "logits", "spec_decode_metadata"]
    describe = vllm.parameters(runner, "GPUModelRunner._calc_spec_decode_metadata")
    assert describe == ["self", "num_draft_tokens", "cu_num_scheduled_tokens"]
    assert "if spec_decode_metadata is None:" in vllm.text(runner)
    assert "num_draft_tokens" in vllm.text("vllm.v1.spec_decode.metadata")


def engine_asks_for_drafts_where_we_answer(vllm: Sources) -> None:
    vllm.find("vllm.v1.worker.gpu_worker", "Worker.take_draft_token_ids")
    core = vllm.text("vllm.v1.engine.core")
    for step in (
        "model_output = self.model_executor.sample_tokens(grammar_output)",
        "not self.async_scheduling and model_executed:",
        "draft_token_ids = self.model_executor.take_draft_token_ids()",
    ):
        assert step in core, step


def runner_v1_reads_the_probabilities_we_leave(vllm: Sources) -> None:
    text = vllm.text("vllm.v1.worker.gpu_model_runner")
    for use in ("self._draft_probs[row_idx, :num_draft]", "enumerate(self._draft_prob_req_ids)"):
        assert use in text, use


def config_has_the_options_we_serve(vllm: Sources) -> None:
    for field in ("draft_sample_method", "enable_adaptive_verification"):
        vllm.find("vllm.config.speculative", f"SpeculativeConfig.{field}")


def speculators_have_the_hooks_we_override(vllm: Sources) -> None:
    for hook in ("load_draft_model", "set_attn", "__init__"):
        vllm.find(f"{SPEC_DECODE}.speculator", f"DraftModelSpeculator.{hook}")
    for hook in ("init_cudagraph_manager", "capture", "propose"):
        vllm.find(f"{SPEC_DECODE}.speculator", f"BaseSpeculator.{hook}")


def runner_v2_gives_slots_where_we_watch(vllm: Sources) -> None:
    assert vllm.parameters(STATES, "RequestState.add_request")[:2] == ["self", "req_id"]
    assert "req_id_to_index" in vllm.text(STATES)


def scheduler_judges_drafts_as_our_watch_expects(vllm: Sources) -> None:
    scheduler = "vllm.v1.core.sched.scheduler"
    theirs = vllm.parameters(scheduler, "Scheduler.make_spec_decoding_stats")
    ours = OURS.parameters("vllm_lmtp.observe.watch", "note_verdict")
    # Ours: scheduler, the returned stats. vLLM passes all but the stats before by name.
    assert theirs[0] == "self"
    assert theirs[2:] == ours[2:]
    call = vllm.text(scheduler).split("self.make_spec_decoding_stats(", 1)[1]
    assert call.split(",", 1)[0].strip() == "spec_decoding_stats"
    for name in theirs[2:]:
        assert f"{name}=" in call.split(")\n", 1)[0], name


def counters_are_built_as_ours_extend_them(vllm: Sources) -> None:
    metrics = "vllm.v1.spec_decode.metrics"
    parameters = vllm.parameters(metrics, "SpecDecodingProm.__init__")
    assert parameters[:4] == [
        "self",
        "speculative_config",
        "labelnames",
        "per_engine_labelvalues",
    ]
    assert vllm.parameters(metrics, "SpecDecodingProm.observe") == [
        "self",
        "spec_decoding_stats",
        "engine_idx",
    ]
    vllm.find(metrics, "SpecDecodingProm._counter_cls")
    for field in ("num_spec_tokens", "num_draft_tokens_per_pos", "num_accepted_tokens_per_pos"):
        vllm.find(metrics, f"SpecDecodingStats.{field}")


def log_of_speculation_adds_up_what_we_compare_with(vllm: Sources) -> None:
    logging = "vllm.v1.spec_decode.metrics"
    parameters = vllm.parameters(logging, "SpecDecodingLogging.observe")
    assert parameters == ["self", "spec_decoding_stats"]
    assert vllm.parameters(logging, "SpecDecodingLogging.log") == ["self", "log_fn"]
    observed = vllm.source(logging, "SpecDecodingLogging.observe")
    for name in ("num_draft_tokens", "num_accepted_tokens"):
        assert f"self.{name}.append(spec_decoding_stats.{name})" in observed, name


def runners_return_what_carries_draft_reports(vllm: Sources) -> None:
    for runner in ("gpu_model_runner", "gpu.model_runner"):
        vllm.find(f"vllm.v1.worker.{runner}", "GPUModelRunner.sample_tokens")
    assert "self.model_runner_output = model_runner_output" in vllm.text(
        "vllm.v1.worker.gpu.async_utils"
    )
    parameters = vllm.parameters("vllm.v1.core.sched.scheduler", "Scheduler.update_from_output")
    ours = OURS.parameters("vllm_lmtp.worker.clock", "collect")
    assert parameters == ["self", *ours[1:]]
    vllm.find("vllm.v1.core.sched.output", "SchedulerOutput.num_spec_tokens_to_schedule")


def cpu_kernel_takes_the_arguments_we_read(vllm: Sources) -> None:
    kernel = vllm.parameters("vllm.utils.cpu_triton_utils", "_expand_kernel_impl")
    assert kernel[:5] == [
        "output",
        "input_val",
        "cu_num_tokens",
        "replace_from",
        "replace_to",
    ]


def nobody_reads_the_list_that_carries_cold_drafts(vllm: Sources) -> None:
    """metrics.add_cold_draft appends to it; a reader of its length would be misled."""
    metrics = Path(*["vllm", "v1", "spec_decode", "metrics"]).with_suffix(".py")
    readers = {
        file.relative_to(vllm.root)
        for file in (vllm.root / "vllm" / "v1").rglob("*.py")
        if "num_draft_tokens_per_pos" in file.read_text(encoding="utf-8")
    }
    assert readers == {metrics}


def drafters_name_their_targets_as_we_write_it(vllm: Sources) -> None:
    reader = "vllm.transformers_utils.config", "maybe_override_with_speculators"
    parameters = vllm.parameters(*reader)
    assert parameters[0] == "model"
    assert "vllm_speculative_config" in parameters
    assert '["verifier"]["name_or_path"]' in vllm.source(*reader)
    form = vllm.text("vllm.transformers_utils.configs.speculators.base")
    for field in ("proposal_methods", "speculative_tokens", "transformer_layer_config"):
        assert field in form, field
    caller = vllm.source(ARGS, "EngineArgs.create_engine_config")
    assert "vllm_speculative_config=self.speculative_config" in caller


def requests_hold_their_drafts_until_a_step_is_scheduled(vllm: Sources) -> None:
    parameters = vllm.parameters("vllm.sampling_params", "SamplingParams.verify")
    assert parameters[:3] == ["self", "model_config", "speculative_config"]
    scheduler = "vllm.v1.core.sched.scheduler"
    assert vllm.parameters(scheduler, "Scheduler.add_request") == ["self", "request"]
    in_order(
        vllm.source(scheduler, "Scheduler.schedule"),
        "if request.spec_token_ids:",
        "scheduled_spec_decode_tokens[request.request_id] = spec_token_ids",
    )
    given = "request.spec_token_ids = "
    assert given in vllm.source(scheduler, "Scheduler.update_draft_token_ids")
    ahead = "vllm.v1.core.sched.async_scheduler", "AsyncScheduler._update_after_schedule"
    assert given in vllm.source(*ahead)


ASSUMPTIONS: tuple[Callable[[Sources], None], ...] = (
    every_binding_exists,
    command_line_has_the_options_we_widen,
    engine_args_have_the_fields_we_read,
    speculative_config_is_built_from_the_name_we_swap,
    speculative_config_has_the_fields_we_set,
    every_option_we_refuse_exists,
    async_methods_are_asked_of_the_name_we_widen,
    model_config_is_the_loaders_second_argument,
    runner_v1_is_built_from_the_config,
    runner_v1_hands_our_proposer_what_it_takes,
    runner_v2_builds_speculators_from_the_config,
    runner_v2_hands_nobody_the_texts_before_us,
    runner_v2_keeps_the_texts_we_read,
    runner_v2_writes_what_was_sampled_before_it_drafts,
    runner_v1_keeps_the_texts_we_read,
    runner_v1_writes_what_was_sampled_before_it_drafts,
    runner_v2_hands_our_speculator_what_it_takes,
    runner_v2_draws_and_keeps_as_we_ask,
    runner_v1_samples_plainly_without_metadata,
    engine_asks_for_drafts_where_we_answer,
    runner_v1_reads_the_probabilities_we_leave,
    config_has_the_options_we_serve,
    speculators_have_the_hooks_we_override,
    runner_v2_gives_slots_where_we_watch,
    scheduler_judges_drafts_as_our_watch_expects,
    counters_are_built_as_ours_extend_them,
    log_of_speculation_adds_up_what_we_compare_with,
    runners_return_what_carries_draft_reports,
    cpu_kernel_takes_the_arguments_we_read,
    nobody_reads_the_list_that_carries_cold_drafts,
    drafters_name_their_targets_as_we_write_it,
    requests_hold_their_drafts_until_a_step_is_scheduled,
    *FAULT_ASSUMPTIONS,
)
