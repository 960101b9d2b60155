"""Reads from vLLM's engine arguments whether leap heads were asked for, and builds their config."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vllm_lmtp import METHOD
from vllm_lmtp.compat import check_vllm
from vllm_lmtp.config.fit import WHERE
from vllm_lmtp.errors import LMTPError, refuse
from vllm_lmtp.formats.checkpoint import HEAD_TYPE, is_lmtp_config, is_stage1_config, read_config

ENGINE_ARGS = ("async_scheduling", "download_dir", "kv_sharing_fast_prefill", "max_num_seqs")
"""Arguments of the engine that the check of the speculative config must know."""


def asks_for_lmtp(engine_args: Any) -> bool:
    """Whether the method is `lmtp`, or left open with a drafter that is a folder of leap heads.

    `speculative_config="lmtp"`, which vLLM itself would not take offline, is made a dict here, and
    an open method is filled in.

    Raises:
        LMTPError: another method was asked for on a folder of leap heads.
    """
    given = engine_args.speculative_config
    if given == METHOD:
        given = engine_args.speculative_config = {"method": METHOD}
    if not isinstance(given, dict | None):
        return False
    options = {key.replace("-", "_"): value for key, value in (given or {}).items()}
    method = getattr(engine_args, "spec_method", None) or options.get("method")
    model = getattr(engine_args, "spec_model", None) or options.get("model")
    if method == METHOD:
        return True
    if not isinstance(model, str) or not _may_be_heads(model, method):
        return False
    raw = _raw_config(model, options.get("revision"))
    if raw is None or not is_lmtp_config(raw):
        return False
    if method is not None:
        raise refuse(
            WHERE,
            "method",
            found=f"{method!r} with the leap heads of {model}",
            expected=f"{METHOD!r}",
            remedy=f'use {{"method": "{METHOD}", "model": "{model}"}}',
        )
    engine_args.speculative_config = {**(given or {}), "method": METHOD}
    return True


def _may_be_heads(model: str, method: str | None) -> bool:
    """A name that is no folder is looked up on the hub, so only where vLLM would do so next."""
    return Path(model).is_dir() or (method is None and "/" in model)


def create_config(wrapped: Any, engine_args: Any, args: Any, kwargs: Any) -> Any:
    """Let vLLM build its speculative config from our subclass.

    Raises:
        LMTPError: unsupported vLLM, or anything that cannot be served, all reasons at once.
    """
    check_vllm()
    import vllm.engine.arg_utils as arg_utils

    from vllm_lmtp.config.spec_config import LMTPSpeculativeConfig, as_lmtp_error, runner_in_use

    engine_args.speculative_config = {
        **(engine_args.speculative_config or {}),
        "lmtp_engine_args": {name: getattr(engine_args, name, None) for name in ENGINE_ARGS},
    }
    if runner_in_use() == 1 and engine_args.async_scheduling is None:
        engine_args.async_scheduling = False  # vLLM's default would be on; V1 drafts synchronously
    original = arg_utils.SpeculativeConfig
    arg_utils.SpeculativeConfig = LMTPSpeculativeConfig
    try:
        return wrapped(*args, **kwargs)
    except ValidationError as error:
        raise as_lmtp_error(error) from None
    finally:
        arg_utils.SpeculativeConfig = original


def target_overrides(model: str, revision: str | None, hf_overrides: Any) -> Any:
    """`hf_overrides` under which vLLM loads a stage-1 folder as the plain model it contains.

    The folder's architecture, `LMTPModel`, exists nowhere but in the reference; vLLM would class
    any name that ends in "Model" as a pooling model. Folders without leap heads, and anything
    unreadable, are left to vLLM as they are.

    Args:
        model: path or Hugging Face id of the target.
        revision: of the id.
        hf_overrides: the user's own, a dict or a callable on the config, or None.
    """
    raw = _raw_config(model, revision)
    if raw is None or not is_stage1_config(raw):
        return hf_overrides
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = raw.get("model_type")
    known = isinstance(model_type, str) and model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not known:
        raise refuse(
            f"{model}/config.json",
            "model_type",
            found=repr(raw.get("model_type", "no such key")),
            expected="the backbone's type, such as 'llama', 'qwen2' or 'gemma3_text'",
            remedy="set it to the type of the model that the heads were trained on",
        )
    ours = {
        "architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]],
        "head_type": HEAD_TYPE,
    }
    if callable(hf_overrides):
        return functools.partial(_override_then, hf_overrides, ours)
    return ours | (hf_overrides or {})


def _override_then(users: Any, ours: dict[str, Any], config: Any) -> Any:
    """Our overrides, then the user's callable; at module level, so that it can be pickled."""
    config.update(ours)
    return users(config)


def _raw_config(model: str, revision: str | None) -> dict[str, Any] | None:
    if Path(model).is_dir():
        try:
            return read_config(Path(model))
        except LMTPError:
            return None
    import vllm.envs as envs

    if envs.VLLM_USE_MODELSCOPE:
        return None  # an id there may name another model on the Hugging Face hub
    from vllm.transformers_utils.repo_utils import get_hf_file_to_dict

    try:
        return get_hf_file_to_dict("config.json", model, revision)
    except Exception:  # vLLM is about to report it better than we could
        return None
