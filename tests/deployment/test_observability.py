"""Prometheus' and Grafana's files: they read gauges that a search has, and start.sh says what is missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tune.execution import search_gauges

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "observability"
GAUGES = {"trials", "best", "trial_figure", *(f"trial_{name}" for name in search_gauges._OF_A_TRIAL)}


@pytest.fixture(scope="module")
def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((FOLDER / "grafana" / "dashboards" / "reranker.json").read_text())
    found: list[dict[str, Any]] = dashboard["panels"]
    return found


def test_every_panel_reads_gauges_that_a_search_has(panels):
    read = {name for panel in panels for target in panel["targets"] for name in
            re.findall(r"ray_reranker_(\w+)", target["expr"])}  # fmt: skip
    assert read <= GAUGES
    assert GAUGES - read == set(), "a gauge that no panel shows"


def test_every_figure_that_a_panel_picks_is_one_of_a_report(panels):
    picked = {name for panel in panels for target in panel["targets"] for name in
              re.findall(r'metric="(\w+)"', target["expr"])}  # fmt: skip
    assert picked <= set(search_gauges._FIGURES)


def test_panels_do_not_lie_on_each_other(panels):
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_everything_listens_on_the_loopback_interface_alone():
    services = yaml.safe_load((FOLDER / "docker-compose.yml").read_text())["services"]
    assert "--web.listen-address=127.0.0.1:9090" in services["prometheus"]["command"]
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert "--web.listen-address=127.0.0.1:9090" in (FOLDER / "start.sh").read_text()


def start(tmp_path: Path, *arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(FOLDER / "start.sh"), *arguments],
        env={"HOME": str(tmp_path), "PATH": path, "RAY_TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_without_a_search_it_says_what_to_start_first(tmp_path):
    done = start(tmp_path, path=os.environ["PATH"])
    assert done.returncode == 2
    assert f"there is no folder {tmp_path}/reranker-{os.getuid()}/ray: start a search first" in done.stderr


def test_without_docker_and_prometheus_it_says_how_to_get_one(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("id", "sed", "cp", "mkdir", "dirname"):
        (tools / tool).symlink_to(Path("/usr/bin") / tool)
    done = start(tmp_path, str(tmp_path), path=str(tools))
    assert done.returncode == 2
    assert "apt-get install prometheus" in done.stderr
    assert str(tmp_path) in (tmp_path / ".local/state/reranker-tuner/observability/prometheus.yml").read_text()
