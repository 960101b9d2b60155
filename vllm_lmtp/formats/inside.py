"""Files of a folder that are links to somewhere else: what a folder brings along must lie in it.

Who unpacks a stranger's folder and serves, converts or publishes it would else read, and copy into
the result, whatever file of this machine a link names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vllm_lmtp.errors import Refusal, raise_refusals

SNAPSHOTS, BLOBS = "snapshots", "blobs"
"""In the hub's cache a model's files are links from `snapshots/<revision>` to `blobs`."""


def refuse_links_out(folder: Path, files: Iterable[Path]) -> None:
    """Do nothing unless a file is a link that leaves its folder.

    Args:
        folder: which may itself be a link. files: in it, which need not be there.

    Raises:
        LMTPError: with every such file.
    """
    root = Path(os.path.realpath(folder))
    homes = [root]
    if root.parent.name == SNAPSHOTS:
        homes.append(root.parents[1] / BLOBS)
    faults = []
    for file in files:
        real = Path(os.path.realpath(file))
        if not any(real.is_relative_to(home) for home in homes):
            found, expected = f"a link to {real}", "a file of the folder itself"
            remedy = "copy the file there if you trust what it names"
            faults.append(Refusal(str(folder), file.name, found, expected, remedy))
    raise_refusals(faults)
