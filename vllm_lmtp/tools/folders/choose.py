"""Some of a folder's leap heads as a folder of their own.

With the backbone frozen, heads know nothing of each other: the head for an offset is the same
whatever heads were trained beside it. Six adjacent heads (offsets 2..7) so hold three leap heads of
stride 2 (offsets 3, 5 and 7), and three adjacent ones (2..4), all from one training run.
"""

from __future__ import annotations

import re
from pathlib import Path

from vllm_lmtp.errors import refuse
from vllm_lmtp.formats.checkpoint import CONFIG_FILE, MAX_STRIDE, HeadsCheckpoint, read_checkpoint
from vllm_lmtp.formats.files import LICENCES, Entry, Weights, read_folder
from vllm_lmtp.formats.speculators import moved_target, stated_target
from vllm_lmtp.formats.tensors import HEADS_PREFIX, head_of
from vllm_lmtp.method.leap import LeapSchedule
from vllm_lmtp.tools.folders.convert import head_fields
from vllm_lmtp.tools.folders.save import Written, write_folder

_HEAD = re.compile(r"(?<=^heads\.heads\.)\d+")


def choose_heads(
    folder: Path,
    output: Path,
    *,
    every: int = 1,
    first: int | None = None,
    overwrite: bool = False,
) -> Written:
    """Write every `every`-th head, at most `first` of them, as a heads-only folder.

    Head i of stride s predicts t + 1 + s(i + 1), so head e(i + 1) - 1 is head i of stride e * s. A
    scorer stays behind: it was made for all of the heads.

    Args:
        folder: a stage-1 or heads-only folder.
        every: e; the first head taken is the e-th.
        first: how many to take; None for all there are.

    Raises:
        LMTPError: no sound folder, too few heads, a stride that no schedule can have, or an output
            that is there or cannot be written.
    """
    checkpoint = read_checkpoint(folder)
    config, weights = read_folder(folder)
    taken = _taken(checkpoint, every, first)
    schedule = LeapSchedule(len(taken), checkpoint.schedule.stride * every)
    fields = head_fields(
        schedule, checkpoint.num_layers, checkpoint.hidden_size, checkpoint.vocab_size
    )
    if checkpoint.draft_vocab_size is not None:
        fields["draft_vocab_size"] = checkpoint.draft_vocab_size
    kept = {key: config[key] for key in ("model_type", "model_name") if key in config}
    if checkpoint.stage1:
        target = stated_target(folder, output, schedule)
    else:
        target = moved_target(config, folder, output, schedule)
    return write_folder(
        output,
        _renumbered(weights, taken),
        fields | kept | target,
        tool="convert --to heads",
        inputs=[folder],
        facts={"heads": len(taken), "stride": schedule.stride, "from_heads": taken},
        overwrite=overwrite,
        beside=LICENCES,
    )


def _taken(checkpoint: HeadsCheckpoint, every: int, first: int | None) -> list[int]:
    there = checkpoint.schedule.n_heads
    taken = list(range(every - 1, there, every))[:first]
    if len(taken) < (first or 1):
        raise refuse(
            str(checkpoint.path / CONFIG_FILE),
            "n_head",
            found=f"{there} head(s)",
            expected=f"at least {every * (first or 1)}, for {first or 1} of every {every}",
            remedy="give a smaller --every or --first",
        )
    if (stride := checkpoint.schedule.stride * every) > MAX_STRIDE:
        raise refuse(
            str(checkpoint.path / CONFIG_FILE),
            "skip_token",
            found=f"{checkpoint.schedule.stride}, which --every {every} makes {stride}",
            expected=f"a stride of at most {MAX_STRIDE}",
            remedy="give a smaller --every",
        )
    return taken


def _renumbered(weights: Weights, taken: list[int]) -> dict[str, Entry]:
    """The tensors of the heads taken, under their new numbers, and what all heads share."""
    entries = {}
    for name in weights.heads():
        head = head_of(name)
        if head in taken:
            entries[_HEAD.sub(str(taken.index(head)), name)] = weights.entry(name)
        elif head is None and name.startswith(HEADS_PREFIX):
            entries[name] = weights.entry(name)
    return entries
