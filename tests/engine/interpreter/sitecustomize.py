"""Lets Model Runner V2 run on a CPU under Triton's interpreter. On PYTHONPATH of V2's tests only.

vLLM takes V2 when Triton has an active backend; no registry offers one for CPUs, but the
interpreter runs V2's kernels on CPU tensors. Changes must be made before vLLM is imported, in
every process, which is what `sitecustomize` is for. Asynchronous scheduling, V2's default on GPUs,
is forced off by vLLM's CPU platform and is turned on again when LMTP_TEST_ASYNC=1.
"""

import os
import sys


class _StandInBackend:
    class driver:  # noqa: N801 - Triton's own name
        @staticmethod
        def is_active():
            return True


def _allow_async(module):
    check = module.CpuPlatform.check_and_update_config.__func__

    def check_and_allow_async(cls, vllm_config):
        check(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    module.CpuPlatform.check_and_update_config = classmethod(check_and_allow_async)


def _take_any_mask(module):
    """The interpreter makes an int32 of a mask that a kernel combines with a scalar truth value, as
    vLLM's does when it keeps what a draft was drawn from, and then refuses it."""
    builder = module.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def as_bool(mask):
        return module.TensorHandle(mask.data.astype(bool), module.tl.int1)

    builder.create_masked_load = lambda self, pointers, mask, *rest, **more: load(
        self, pointers, as_bool(mask), *rest, **more
    )
    builder.create_masked_store = lambda self, pointers, value, mask, *rest, **more: store(
        self, pointers, value, as_bool(mask), *rest, **more
    )


class _Libdevice:
    """Stands in for CUDA's functions, which the interpreter calls to no effect."""

    @staticmethod
    def log1p(value):
        import triton.language as tl

        return tl.log(1.0 + value)


def _use_stand_in(module):
    module.tldevice = _Libdevice


if os.environ.get("TRITON_INTERPRET") == "1":
    import importlib.util

    if importlib.util.find_spec("triton") is not None:
        import triton.backends

        triton.backends.backends["cpu"] = _StandInBackend()

if os.environ.get("LMTP_TEST_ASYNC") == "1" and "wrapt" not in sys.modules:
    import wrapt

    wrapt.register_post_import_hook(_allow_async, "vllm.platforms.cpu")

if os.environ.get("TRITON_INTERPRET") == "1":
    import wrapt

    wrapt.register_post_import_hook(_take_any_mask, "triton.runtime.interpreter")
    wrapt.register_post_import_hook(
        _use_stand_in, "vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils"
    )
