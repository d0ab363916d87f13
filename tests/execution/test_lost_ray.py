"""Ray ends in the middle of a search: one sentence, a study that is closed, and one that goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from results.study.study_folder import StudyFolder
from tests.ended import PATIENCE_S

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parents[2]
STUDY = """
study: {name: small, trials: 2, seed: 3, concurrency: 1}
data: {source: demo, users: 64, interactions_per_user: 5}
fixed: {model: demo-tiny, examples_per_user: 1, epochs: 60}
space: {learning_rate: {log_uniform: [1.0e-3, 1.0e-2]}}
"""


def test_the_search_ends_with_one_sentence_and_a_closed_study(tmp_path):
    process = "gcs_server"  # what comes of the raylet's end is in tests/searching/test_resume.py
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    command = [sys.executable, str(PROJECT / "tune" / "run_search.py"), str(file), "--runs", str(tmp_path / "runs")]
    search = subprocess.Popen(
        [*command, "--no-dashboard"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    study = StudyFolder(tmp_path / "runs" / "small")
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (study.trial(0).path / "epochs.jsonl").exists():
            assert time.monotonic() < deadline
            assert search.poll() is None, search.communicate()
            time.sleep(0.1)
        next(child for child in psutil.Process(search.pid).children() if child.name() == process).kill()
        out, err = search.communicate(timeout=PATIENCE_S)
    finally:
        search.kill()
    assert search.returncode == 1, out + err
    assert err == ""
    early, resume = out.splitlines()[-2:]
    assert early.startswith(
        f"ended early: a fault of the machine: Ray's process {process} on this machine is gone; its logs"
    )
    assert resume.endswith(f"--resume {study.path}")
    assert "Traceback" not in out
    ending = json.loads((study.path / "ending.json").read_text())
    assert f"Ray's process {process} on this machine is gone" in ending["reason"]
    assert not ending["complete"]
    assert [str(trial.status) for trial in study.trials()] == ["interrupted"]
    assert study.report.exists()
