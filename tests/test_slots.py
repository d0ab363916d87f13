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

from results.study_folder import StudyFolder

PROJECT = Path(__file__).resolve().parents[1]
STUDY = """
study:
  name: small
  trials: 2
  concurrency: 1
  scheduler: none
  start_from: [{micro_batch: 8}, {micro_batch: 512}]
data: {source: demo, users: 512, interactions_per_user: 5}
fixed: {model: demo-small, epochs: 2, examples_per_user: 1, effective_batch: 512, learning_rate: 1.0e-2}
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
