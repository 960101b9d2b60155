"""The dashboard and the scrape configuration, as far as no server is needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.dashboard import NAME, dashboard, expressions, metric_names
from vllm_lmtp.observe.metrics import (
    ACCEPTED,
    ACCEPTED_BY_SOURCE,
    COLD,
    DRAFT_SECONDS,
    DRAFTED,
    DRAFTED_BY_SOURCE,
    GAIN,
    LENGTH,
    STEPS,
)

SCRAPE = Path(__file__).parents[2] / "configs" / "prometheus" / "prometheus.yaml"


def test_every_metric_of_ours_is_shown() -> None:
    names = (DRAFTED, ACCEPTED, DRAFTED_BY_SOURCE, ACCEPTED_BY_SOURCE, COLD, STEPS)
    counters = {f"{name.removeprefix('vllm:')}_total" for name in names}
    seconds = {f"{DRAFT_SECONDS.removeprefix('vllm:')}_{end}" for end in ("sum", "count", "bucket")}
    gauges = {name.removeprefix("vllm:") for name in (LENGTH, GAIN)}
    assert counters | seconds | gauges <= metric_names()


@pytest.mark.parametrize("expression", expressions())
def test_expressions_have_no_name_without_the_prefix(expression: str) -> None:
    """Else a panel would stay empty under Ray."""
    assert NAME.search(expression)
    assert "vllm" not in expression
    assert expression.count("(") == expression.count(")")


def test_the_prefix_is_vllms_or_rays() -> None:
    (prefix,) = [v for v in dashboard()["templating"]["list"] if v["name"] == "prefix"]
    assert [option["value"] for option in prefix["options"]] == ["vllm:", "ray_vllm_"]
    assert prefix["query"] == "vLLM : vllm:, Ray : ray_vllm_"


def test_panels_do_not_overlap_and_use_known_variables() -> None:
    board = dashboard()
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        spots = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not spots & taken, panel["title"]
        assert max(x for x, _ in spots) < 24
        taken |= spots
    known = {v["name"] for v in board["templating"]["list"]} | {"__rate_interval"}
    used = set(re.findall(r"\$\{?(\w+)\}?", " ".join(expressions())))
    assert used <= known
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_scrape_configuration_reads_a_server_and_ray() -> None:
    config: dict[str, Any] = yaml.safe_load(SCRAPE.read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert jobs["vllm"]["static_configs"][0]["targets"] == ["localhost:8000"]
    assert jobs["vllm"]["metrics_path"] == "/metrics"
    assert jobs["ray"]["file_sd_configs"][0]["files"][0].endswith("service_discovery.json")
