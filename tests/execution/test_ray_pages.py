"""What Ray's dashboard and its gauges show of a search that runs, as its own addresses tell it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.ended import PATIENCE_S
from tests.execution.test_trial_runner import RunningSearch
from tune.searching import stop_pause_requests

PROJECT = Path(__file__).resolve().parents[2]
STUDY = """
study: {name: pages, trials: 2, concurrency: 1, scheduler: none, start_from: [{epochs: 2}, {epochs: 40}]}
data: {source: demo, users: 300}
fixed: {model: demo-tiny, lora_rank: 4}
space:
  epochs: {choice: [2, 40]}
"""
GAUGED = """
import json, re, sys, time, urllib.request
sys.path.insert(0, {project!r})
from tune.execution.ray_cluster import cluster
from reranker.config import TrialConfig
from reranker.training.training_status import TrainingStatus
from results.study.stored_trial import TrialStatus
from tune.execution.search_gauges import SearchGauges
from tune.execution.trial_messages import Assignment
from tune.study_file.study import Study

study = Study.load({{
    "study": {{"name": "gauged", "trials": 5}}, "data": {{"source": "demo"}},
    "space": {{"learning_rate": {{"choice": [1e-3, 1e-2]}}}}, "fixed": {{"model": "demo-tiny"}},
}})
config = TrialConfig(model="demo-tiny", epochs=4)
figures = {{"recall_at_1": 0.25, "ndcg_at_10": 0.5, "train_loss": 2.25, "val_loss": 2.0, "peak_memory_mb": 2.0}}
with cluster(None, None, dashboard=True) as running:
    gauges = SearchGauges(study, done=1)
    {told}
    lines, deadline = [], time.monotonic() + 180
    while not any(re.search({awaited!r}, line) for line in lines) and time.monotonic() < deadline:
        time.sleep(1)
        gauges.tick()
        for target in json.load(open(running.logs + "/../prom_metrics_service_discovery.json"))[0]["targets"]:
            text = urllib.request.urlopen(f"http://{{target}}/metrics", timeout=30).read().decode()
            lines += [line for line in text.splitlines() if line.startswith("ray_reranker")]
    print(json.dumps(lines))
"""
A_FEW = """
    for number in (1, 2):
        gauges.started(Assignment(number, config))
    gauges.training_status(1, TrainingStatus(epoch=1, loss=2.5, tokens_per_second=800.0, seconds_left=30.0))
    gauges.reported(1, figures | {"epoch": 1})
    gauges.reported(1, figures | {"epoch": 2, "ndcg_at_10": 0.375})
    gauges.training_status(2, TrainingStatus(epoch=1, loss=9.0))
    gauges.ended(2, TrialStatus.FAILED)
"""
MANY = """
    for number in range(500):
        gauges.started(Assignment(number, config))
        gauges.reported(number, figures | {"epoch": 1, "recall_at_1": number / 1000})
        if number < 498:
            gauges.ended(number, TrialStatus.COMPLETED)
"""


def gauged(told: str, awaited: str) -> dict[tuple[str, str, str, str], float]:
    """What Prometheus would read once a line of it matches: (gauge, state, trial, metric) → value."""
    script = GAUGED.format(project=str(PROJECT), told=told, awaited=awaited)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    values = {}
    for line in json.loads(done.stdout.splitlines()[-1]):
        ((name, labels, value),) = re.findall(r"^ray_reranker_(\w+){(.*)} (\S+)$", line)
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        assert tags["study"] == "gauged"
        values[name, tags.get("state", ""), tags.get("trial", ""), tags.get("metric", "")] = float(value)
    return values


@pytest.mark.slow
def test_gauges_are_where_prometheus_reads_them():
    values = gauged(A_FEW, "reranker_trials")
    assert {key[1]: value for key, value in values.items() if key[0] == "trials"} == {
        "running": 1, "completed": 0, "pruned": 0, "failed": 1, "interrupted": 0, "waiting": 2,
    }  # fmt: skip
    assert values["best", "", "", "ndcg_at_10"] == 0.5
    assert values["trial_figure", "", "1", "ndcg_at_10"] == 0.375
    assert values["trial_epoch", "", "1", ""] == 2
    assert values["trial_epochs", "", "1", ""] == 4
    assert values["trial_loss", "", "1", ""] == 2.5
    assert values["trial_tokens_per_second", "", "1", ""] == 800
    assert values["trial_seconds_left", "", "1", ""] == 30
    assert values["trial_peak_memory_bytes", "", "1", ""] == 2 * 2**20
    assert ("trial_loss", "", "2", "") not in values, "a trial that has ended has none"


@pytest.mark.slow
def test_of_hundreds_of_trials_the_running_and_the_last_are_shown():
    values = gauged(MANY, "reranker_trial_figure")
    assert sum(value for key, value in values.items() if key[0] == "trials") == 500
    shown = [value for key, value in values.items() if key[0] == "trial_figure" and key[3] == "recall_at_1"]
    assert sorted(shown) == [number / 1000 for number in range(448, 500)]
    assert len([key for key in values if key[0] == "trial_seconds_since_report"]) == 2


class Dashboard:
    """That of a search that prints where it is."""

    def __init__(self, printed: str) -> None:
        (self.url,) = re.findall(r"Ray dashboard: (http://\S+)", printed)
        self._token = (Path.home() / ".ray" / "auth_token").read_text().strip()

    def get(self, path: str) -> Any:
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self._token}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def state(self, what: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.get(f"/api/v0/{what}?detail=1&limit=10000")["data"]["result"]["result"]
        return rows


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A search of two trials that is looked at in its second trial's first epochs, of which that has many."""
    search = RunningSearch(tmp_path_factory.mktemp("pages"), STUDY)
    search.wait_for_epoch(1, 1)
    dashboard, deadline = Dashboard(search.printed), time.monotonic() + PATIENCE_S
    while not (tasks := [task for task in dashboard.state("tasks") if task["name"].startswith("trial 1")]):
        assert time.monotonic() < deadline
        time.sleep(1)
    yield {
        "jobs": dashboard.get("/api/jobs/"),
        "actors": dashboard.state("actors"),
        "tasks": tasks,
        "all tasks": dashboard.state("tasks"),
        "train runs": dashboard.get("/api/train/v2/runs/v1")["train_runs"],
        "processes": [" ".join(process.cmdline()) for process in search.processes()],
    }
    stop_pause_requests.ask(search.study, "stop", trial=1)
    search.wait()


@pytest.mark.slow
def test_the_list_of_jobs_names_the_study(pages):
    (job,) = pages["jobs"]
    assert job["metadata"] == {"job_name": "pages"}
    assert "run_search.py study.yaml" in job["entrypoint"]


@pytest.mark.slow
def test_each_report_of_each_trial_is_a_task_by_name(pages):
    names = [task["name"] for task in pages["all tasks"] if task["name"].startswith("trial 0")]
    assert sorted(names) == ["trial 0 · epoch 1/2 · epochs 2", "trial 0 · epoch 2/2 · epochs 2"]
    states = {task["state"] for task in pages["all tasks"] if task["name"].startswith("trial 0")}
    assert states == {"FINISHED"}


@pytest.mark.slow
def test_every_actor_that_trains_says_whose_it_is_and_none_is_dead(pages):
    named = {
        actor["class_name"]: actor["repr_name"] for actor in pages["actors"] if "slot 0 of pages" in actor["repr_name"]
    }
    assert named == {
        "TrialRunner": "slot 0 of pages",
        "Mailbox": "messages of slot 0 of pages",
        "TrainWorker": "worker of slot 0 of pages",
    }
    assert [actor["class_name"] for actor in pages["actors"] if actor["state"] == "DEAD"] == []


@pytest.mark.slow
def test_what_a_slot_does_without_has_no_process(pages):
    classes = {actor["class_name"] for actor in pages["actors"]}
    assert classes & {"TrainController", "PlacementGroupCleaner", "AutoscalingCoordinator"} == set()


@pytest.mark.slow
def test_a_slot_s_process_says_what_it_is_doing(pages):
    assert any(re.search(r"ray::trial 1 · epoch \d+/40", line) for line in pages["processes"]), pages["processes"]


@pytest.mark.slow
def test_train_runs_are_named_by_slot_and_study(pages):
    (run,) = pages["train runs"]
    assert run["name"].startswith("slot-0-of-pages-")
