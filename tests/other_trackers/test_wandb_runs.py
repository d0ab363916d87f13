"""Offline runs of the real W&B: what its own files then hold. There is no network here, so nothing is ever sent."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from reranker.storage.atomic_files import append_line
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tests.stored import report
from tests.tracked import USERS, add_trial, figures, ranks
from tune.other_trackers.tracker_files import wandb_parent
from tune.other_trackers.wandb_runs import WandbRuns

_BLOCK, _HEAD = 32_768, 7


@dataclass
class Run:
    """A run as W&B's file has it."""

    about: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    def points(self, name: str) -> list[tuple[int, float]]:
        return [(row["examples"], row[name]) for row in self.rows if name in row]


def records(file: Path) -> Iterator[Any]:
    """Of W&B's log: a head of seven bytes, then LevelDB's blocks of records in parts."""
    content, at, whole = file.read_bytes(), _HEAD, b""
    while at + _HEAD <= len(content):
        if _BLOCK - at % _BLOCK < _HEAD:
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + _HEAD])
        whole += content[at + _HEAD : at + _HEAD + length]
        at += _HEAD + length
        if kind in (1, 4):  # the whole record, or its last part
            record: Any = getattr(wandb_internal_pb2, "Record")()  # noqa: B009, its types are made when it is imported
            record.ParseFromString(whole)
            yield record
            whole = b""


def run_of(file: Path) -> Run:
    run = Run()
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.about = record.run
            run.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            items = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            run.rows.append({key: json.loads(value) for key, value in items.items()})
        elif kind == "summary":
            for item in record.summary.update:
                run.summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def runs(study: StudyFolder) -> dict[str, Run]:
    """By what stands in their ids behind the study's."""
    found: dict[str, Run] = {}
    for file in sorted((wandb_parent(study) / "wandb").glob("offline-run-*/run-*.wandb")):
        deadline = time.monotonic() + 60
        while (run := run_of(file)).about is None and time.monotonic() < deadline:
            time.sleep(0.2)  # W&B's own process writes it
        key = run.about.run_id.split("-", 1)[1]
        assert key not in found, "a run is there once"
        found[key] = run
    return found


def deliver(study: StudyFolder, *, ended: bool = True) -> dict[str, Run]:
    """By a new launch, which knows nothing but the files."""
    mirror = WandbRuns(study, "offline")
    mirror.bring_up(ended=ended)
    for run in mirror._runs.values():  # as a process that ends does
        run.finish(failed=True)
    return runs(study)


@pytest.mark.slow
def test_a_trial_is_a_run_with_mlflow_s_figures_and_steps(study):
    seen = deliver(study)
    assert sorted(key for key in seen if "baseline" not in key) == ["000", "001", "002", "study"]
    run = seen["000"]
    assert (run.about.run_group, run.about.job_type, run.about.display_name) == (
        study.name, "trial", "000 demo-tiny lr 0.01",
    )  # fmt: skip
    assert run.about.run_id == f"{study.read_manifest()['study_id']}-000"
    assert (run.config["learning_rate"], run.config["configuration"]) == (0.01, 0)
    assert run.points("ndcg_at_10") == [(4000, 0.30), (8000, 0.41), (12000, 0.35)]
    assert run.points("best/ndcg_at_10") == [(4000, 0.30), (8000, 0.41), (12000, 0.41)]
    assert (run.summary["best/ndcg_at_10"], run.summary["epoch_of_best"]) == (0.41, 2)
    assert run.summary["applied/optimizer_steps"] == 750
    assert [seen[f"00{n}"].summary["status"] for n in range(3)] == ["completed", "pruned", "failed"]
    assert [seen[f"00{n}"].exit_code for n in range(3)] == [0, 0, 1]
    assert seen["002"].summary["cause"] == "diverged in epoch 1"


@pytest.mark.slow
def test_baselines_are_level_lines_and_the_study_says_what_was_found(study):
    seen = deliver(study)
    named = {run.about.display_name: run for run in seen.values()}
    assert named["chance"].points("recall_at_1") == [(0, 0.05), (12000, 0.05)]
    assert named["popularity"].about.job_type == "baseline"
    summary = seen["study"].summary
    assert (summary["winner"], summary["best/ndcg_at_10"], summary["complete"]) == (0, 0.41, True)
    assert (summary["proven/0"], summary["chance/recall_at_1"]) == ("winner", 0.05)
    assert seen["study"].config["knobs"] == ["learning_rate", "model"]


def test_delivering_again_makes_no_second_run_and_no_second_file(study):
    deliver(study)
    files = sorted((wandb_parent(study) / "wandb").glob("offline-run-*"))
    deliver(study)
    assert sorted((wandb_parent(study) / "wandb").glob("offline-run-*")) == files


@pytest.mark.slow
def test_a_trial_that_was_cut_short_goes_on_in_its_run_without_doubled_points(study):
    add_trial(study, 3, [0.2])
    study.write_status(3, TrialStatus.RUNNING)
    with study.locked():
        study.trial(3).append_step({"examples": 40, "loss": 2.9})
        first = deliver(study, ended=False)["003"]
        assert first.points("ndcg_at_10") == [(4000, 0.2)]
        report(study.trial(3), USERS, ranks(3.0), **figures(2, 0.3))
        study.trial(3).append_step({"examples": 4040, "loss": 2.5})
    study.write_status(3, TrialStatus.COMPLETED)
    run = deliver(study)["003"]
    assert run.about.run_id == first.about.run_id
    assert run.points("ndcg_at_10") == [(4000, 0.2), (8000, 0.3)]
    assert run.points("step/loss") == [(40, 2.9), (4040, 2.5)]
    assert (run.summary["status"], run.exit_code) == ("completed", 0)


def test_figures_come_as_they_are_made(study):
    add_trial(study, 3, [0.2])
    study.write_status(3, TrialStatus.RUNNING)
    mirror = WandbRuns(study, "offline")
    with study.locked():
        mirror.bring_up()
        report(study.trial(3), USERS, ranks(3.0), **figures(2, 0.3))
        mirror.bring_up()
    study.write_status(3, TrialStatus.COMPLETED)
    mirror.bring_up(ended=True)
    assert runs(study)["003"].points("ndcg_at_10") == [(4000, 0.2), (8000, 0.3)]


def test_a_reading_of_the_test_changes_the_study_s_run_alone(study):
    deliver(study)
    before = {path.name for path in (wandb_parent(study) / "wandb").glob("offline-run-*")}
    append_line(study.path / "test_readings.jsonl", {"time": "", "trial": 0, "figures": {"ndcg_at_10": 0.38}})
    seen = deliver(study)
    after = {path.name for path in (wandb_parent(study) / "wandb").glob("offline-run-*")}
    assert [name.split("-")[-1] for name in before - after] in ([], ["study"])
    assert seen["study"].summary["test/ndcg_at_10"] == 0.38


def test_what_w_and_b_says_it_has_is_not_sent_again(monkeypatch, study):
    """Online, after a kill: the run is resumed, and its summary has the last report."""
    sent: list[dict[str, Any]] = []

    class Resumed:
        def __init__(self) -> None:
            self.resumed, self.summary = True, {"report": 2, "step/examples": 40}

        def define_metric(self, *names: str, **how: str) -> None: ...

        def finish(self, *, exit_code: int) -> None: ...

        def log(self, row: dict[str, Any]) -> None:
            sent.append(row)

    study.trial(0).append_step({"examples": 40, "loss": 2.9})
    study.trial(0).append_step({"examples": 80, "loss": 2.8})
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(wandb, "init", lambda **how: asked.append(how) or Resumed())
    WandbRuns(study, "online").bring_up()
    (first,) = [how for how in asked if how["id"].endswith("-000")]
    assert (first["mode"], first["resume"], first["settings"].silent) == ("online", "allow", True)
    of_trial = [row for row in sent if row.get("report") == 3 or "step/loss" in row]
    assert [(row["examples"], row.get("step/loss")) for row in of_trial] == [(12000, None), (80, 2.8)]


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_nothing_that_is_there_twice(study):
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from results.study.study_folder import StudyFolder\n"
        "from tune.other_trackers.wandb_runs import WandbRuns\n"
        "WandbRuns(StudyFolder(Path(sys.argv[1])), 'offline').bring_up()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # a W&B of its own
    root = Path(__file__).parents[2]
    killed = subprocess.Popen([sys.executable, "-c", script, str(study.path)], cwd=root, env=own)
    assert killed.wait() == -9
    while any(str(killed.pid) in words for words in service_commands()):
        time.sleep(0.1)
    seen = deliver(study)
    assert seen["000"].points("ndcg_at_10") == [(4000, 0.30), (8000, 0.41), (12000, 0.35)]
    assert seen["study"].summary["winner"] == 0


def service_commands() -> list[list[str]]:
    """Of W&B's own processes, which end when they see that the one that they work for is gone."""
    processes = psutil.process_iter(["cmdline"])
    return [words for process in processes if "wandb-core" in " ".join(words := process.info["cmdline"] or [])]
