"""A package that a command needs and the environment lacks, said as any other refusal."""

from __future__ import annotations

from vllm_lmtp.errors import LMTPError, Refusal

FROM_VLLM = ("torch", "transformers", "vllm")
EXTRAS = "the extras of this package: pip install 'vllm-lmtp[train,eval]'"


def refusal_of(error: ModuleNotFoundError, command: str) -> LMTPError:
    """What to install.

    Args:
        error: of an import. command: that was run.

    Raises:
        ModuleNotFoundError: the same again, where a module of our own is missing: a fault of ours.
    """
    package = (error.name or "").partition(".")[0]
    if package in ("", "vllm_lmtp"):
        raise error
    remedy = "install vLLM for this machine, which brings it" if package in FROM_VLLM else EXTRAS
    expected = f"what `vllm-lmtp {command}` needs"
    refusal = Refusal("Python environment", "packages", f"no {package}", expected, remedy)
    return LMTPError([refusal])
