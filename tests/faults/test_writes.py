"""Every place of the package that writes a file is known, and is whole or known not to matter."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
WRITES = re.compile(
    r"""\.write_text\(|write_bytes\(|savefig\(|save_file\(|open\([^)]*["'][wax]\+?b?["']"""
    r"""|copyfile\(|copytree\(|copyfileobj\(|save_pretrained\(|save_to_disk\(|torch\.save\("""
)
PART = re.compile(r"\bpart\b|\bnew\b")
"""Names of what formats/whole.py yields: a file or a folder that has not its final name yet."""

IN_A_FOLDER, LINES, SCRATCH = (
    "called between the braces of whole_folder, or of the picture's whole_file, alone",
    "lines appended to a file whose last line may be cut: it is passed over",
    "a log, a lock, or a file of a folder that is thrown away",
)
KNOWN = {
    "vllm_lmtp/checkpoints/gguf.py": IN_A_FOLDER,
    "vllm_lmtp/checkpoints/package.py": SCRATCH,
    "vllm_lmtp/checkpoints/packaged.py": IN_A_FOLDER,
    "vllm_lmtp/tools/folders/save.py": IN_A_FOLDER,
    "vllm_lmtp/tools/recipe/page.py": IN_A_FOLDER,
    "vllm_lmtp/training/data/tokenizer.py": IN_A_FOLDER,
    "vllm_lmtp/training/distillation/distill.py": IN_A_FOLDER,
    "vllm_lmtp/training/model/heads_folder.py": IN_A_FOLDER,
    "vllm_lmtp/training/model/layout.py": IN_A_FOLDER,
    "vllm_lmtp/training/model/leap_model.py": IN_A_FOLDER,
    "vllm_lmtp/training/runs/report.py": IN_A_FOLDER,
    "vllm_lmtp/training/runs/stage1.py": IN_A_FOLDER,
    "vllm_lmtp/training/runs/stage2.py": IN_A_FOLDER,
    "eval/engines/cells.py": LINES,
    "eval/engines/servers.py": SCRATCH,
    "eval/gpu/dummy.py": SCRATCH,
    "eval/gpu/jobs.py": SCRATCH,
    "eval/gpu/stages.py": SCRATCH,
    "eval/pages/plots.py": IN_A_FOLDER,
    "eval/trust/kept.py": LINES,
}


def test_no_write_is_unknown() -> None:
    """A new one goes through formats/whole.py, or is listed above with its reason."""
    found = {
        str(file.relative_to(ROOT))
        for place in ("vllm_lmtp", "eval", "patches")
        for file in (ROOT / place).rglob("*.py")
        for line in file.read_text().splitlines()
        if WRITES.search(line) and not PART.search(line)
    }
    assert found == set(KNOWN)
