"""Every file in configs/serve is understood by `vllm serve --config`, down to the method."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "serve").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_vllm_parses_the_file(path: Path) -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from vllm_lmtp.plugin import register

    register()
    parser = make_arg_parser(FlexibleArgumentParser())
    arguments = parser.parse_args(["serve", "--config", str(path)])
    assert arguments.speculative_config["method"] == "lmtp"


def test_there_are_files() -> None:
    assert CONFIGS
