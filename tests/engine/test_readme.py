"""The README's offline example runs as printed and shows an acceptance length."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.engine.client import ROOT, run_with_vllm


def test_offline_example(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(code)
    done = run_with_vllm([sys.executable, script])
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(r"mean acceptance length (\d\.\d\d)", done.stdout)
    assert found, done.stdout[-2000:]
    assert float(found[1]) > 1
