"""What a table is counted on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def text_or_answers(args: argparse.Namespace, folder: Path) -> tuple[Path, Iterator[Tensor]]:
    """What to count on, and its passages.

    Raises:
        LMTPError: it cannot be read, at the latest when the passages are taken.
    """
    from vllm_lmtp.formats.files import fetch
    from vllm_lmtp.tools.scorers.scorer import passages_of_dataset, passages_of_text

    if args.text is None:
        return args.dataset, passages_of_dataset(args.dataset)
    model = folder if args.tokenizer is None else fetch(args.tokenizer)
    return args.text, passages_of_text(args.text, model)
