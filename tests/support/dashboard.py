"""What the Grafana dashboard asks Prometheus for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "configs" / "grafana" / "lmtp.json"
NAME = re.compile(r"\$\{prefix\}([a-z_]+)")


def dashboard() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def expressions() -> list[str]:
    """Of all panels, and of the variables that read metrics."""
    board = dashboard()
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    variables = [v["query"]["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    return asked + variables


def metric_names() -> set[str]:
    """Without their prefix, as /metrics writes them."""
    return {name for expression in expressions() for name in NAME.findall(expression)}
