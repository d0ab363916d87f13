"""A slot that loses its workers, or their memory: real processes, a real SIGKILL, a real limit."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from results.study.study_folder import StudyFolder

PROJECT = Path(__file__).resolve().parents[2]
STUDY = """
study:
  name: small
  trials: 2
  concurrency: 1
  scheduler: none
  start_from: [{micro_batch: 8}, {micro_batch: 512}]
data: {source: demo, users: 512, interactions_per_user: 5}
fixed: {model: demo-small, epochs: 2, examples_per_user: 1, effective_batch: 512, learning_rate: 1.0e-2, list_sharing: 1}
space:
  micro_batch: {choice: [8, 512]}
"""


def worker_of(mark: str) -> psutil.Process:
    """The training process of a search that runs with this mark in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if "TrainWorker" in " ".join(process.cmdline()) and process.environ().get("RERANKER_TEST") == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    (worker,) = found
    return worker


@pytest.fixture(scope="module")
def afflicted(tmp_path_factory):
    """Trial 0 loses its worker after the first epoch; what takes its place can't get memory for trial 1's passes."""
    folder, mark = tmp_path_factory.mktemp("afflicted"), uuid.uuid4().hex
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    script = [str(PROJECT / "tune" / "run_search.py"), "study.yaml", "--runs", "runs"]
    process = subprocess.Popen(
        [sys.executable, *script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, "RERANKER_TEST": mark, "MALLOC_ARENA_MAX": "1"},
    )
    out = ""
    assert process.stdout is not None
    for line in process.stdout:
        out += line
        if "trial 0 epoch 1/2" in line:
            worker_of(mark).send_signal(signal.SIGKILL)
        if "trial 0 epoch 2/2" in line:
            worker = worker_of(mark)
            limit = worker.memory_info().vms + 700 * 2**20  # passes of 512 take over 1,200 MiB, those of 8 under 250
            worker.rlimit(resource.RLIMIT_AS, (limit, limit))
    assert process.wait(timeout=60) == 0, out
    return StudyFolder(folder / "runs" / "small")


def test_workers_that_die_are_replaced_and_the_trial_goes_on_from_its_last_epoch(afflicted):
    trial, folder = next(afflicted.trials()), afflicted.trial(0)
    assert (trial.status, [figures["epoch"] for figures in trial.epochs]) == ("completed", [1, 2])
    assert [figures["applied/examples"] for figures in trial.epochs] == [512, 1024]
    (note,) = folder.read_notes()
    assert "its workers died" in note
    assert "new ones went on from the last epoch" in note


def test_out_of_memory_halves_the_micro_batch_and_leaves_the_effective_one(afflicted):
    _, trial = afflicted.trials()
    assert trial.status == "completed"
    notes = afflicted.trial(1).read_notes()
    assert notes[0] == "out of memory at micro batch 512; went on with 256"
    for figures in trial.epochs:
        assert figures["applied/micro_batch"] < 512
        assert figures["applied/micro_batch"] == int(notes[-1].split()[-1])
        assert figures["applied/optimizer_steps"] == figures["epoch"]


UNLUCKY = """
study: {name: unlucky, trials: 2, concurrency: 1, scheduler: none}
data: {source: demo, users: 512, interactions_per_user: 5}
resources: {idle_seconds: 0.5}
fixed: {model: demo-tiny, epochs: 5, examples_per_user: 1}
space:
  learning_rate: {choice: [1.0e-2, 1.0e-3]}
"""


@pytest.fixture(scope="module")
def unlucky(tmp_path_factory):
    """Without a dashboard. Trial 0 is paused after its first epochs, and loses its worker after the third and the fourth.

    Gives the study and whether the worker was gone during the pause.
    """
    folder, mark = tmp_path_factory.mktemp("unlucky"), uuid.uuid4().hex
    (folder / "study.yaml").write_text(UNLUCKY, encoding="utf-8")
    script = str(PROJECT / "tune" / "run_search.py")
    process = subprocess.Popen(
        [sys.executable, script, "study.yaml", "--runs", "runs", "--no-dashboard"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, "RERANKER_TEST": mark},
    )
    out, gone = "", False
    study = StudyFolder(folder / "runs" / "unlucky")

    assert process.stdout is not None
    for line in process.stdout:
        out += line
        if "trial 0 epoch 1/5" in line:
            worker = worker_of(mark)
            study.control.mkdir(exist_ok=True)
            study.paused.touch()  # seen at the end of the epoch that is under way
            gone = worker in psutil.wait_procs([worker], timeout=60)[0]
            study.paused.unlink()
        if "trial 0 epoch 3/5" in line or "trial 0 epoch 4/5" in line:
            worker_of(mark).send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == 0, out
    return study, gone, out


def test_a_pause_gives_the_workers_back_and_the_trial_goes_on_afterwards(unlucky):
    study, gone, _ = unlucky
    assert gone
    trial = next(study.trials())
    assert [figures["applied/examples"] for figures in trial.epochs] == [512, 1024, 1536, 2048]


def test_a_second_death_is_the_trial_s_failure_and_the_next_trial_s_fresh_start(unlucky):
    study, _, _ = unlucky
    first, second = study.trials()
    assert first.status == "failed"
    assert "its workers died a second time" in first.cause
    assert (second.status, len(second.epochs)) == ("completed", 5)


def test_a_search_without_a_dashboard_says_so(unlucky):
    assert "Ray dashboard: none" in unlucky[2]


ALONE = """
study: {{name: {name}, trials: 2, concurrency: 1, scheduler: none, sampler: grid}}
data: {{source: demo, users: 64, interactions_per_user: 5}}
fixed: {{model: demo-tiny, epochs: 1, examples_per_user: 1}}
space:
  learning_rate: {{choice: [1.0e-2, 1.0e-3]}}
"""


def test_both_isolations_give_the_same_numbers_and_two_searches_run_beside_each_other(tmp_path):
    running = {}
    for isolation in ("slot", "trial"):
        file = tmp_path / f"{isolation}.yaml"
        file.write_text(ALONE.format(name=isolation), encoding="utf-8")
        script = [str(PROJECT / "tune" / "run_search.py"), str(file), "--runs", "runs", "--isolation", isolation]
        running[isolation] = subprocess.Popen([sys.executable, *script, "--quiet"], cwd=tmp_path)
    assert [process.wait(timeout=300) for process in running.values()] == [0, 0]
    slot, trial = (StudyFolder(tmp_path / "runs" / isolation) for isolation in running)
    timed = {"seconds", "seconds_per_list", "train_seconds", "tokens_per_second", "peak_memory_mb"}
    figures = [[{k: v for k, v in t.epochs[0].items() if k not in timed} for t in s.trials()] for s in (slot, trial)]
    assert figures[0] == figures[1]
    groups = [len(list((study.path / "ray").glob("slot-*"))) for study in (slot, trial)]
    assert groups == [1, 2]
