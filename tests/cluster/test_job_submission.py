"""A search as a job of a cluster: what is sent, what is shown, how it ends; and what must not be sent."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from results.study.study_folder import StudyFolder
from tests.ended import output_of
from tests.ray_head import TOKEN, Head
from tune.run_search import main

PROJECT = Path(__file__).resolve().parents[2]
STUDY = """
study: {name: sent, trials: 1, seed: 3}
data: {source: demo, users: 120, interactions_per_user: 5}
fixed: {model: demo-tiny, examples_per_user: 1, epochs: 200, lora_rank: 4}
space: {learning_rate: {log_uniform: [1.0e-3, 1.0e-2]}}
"""


@pytest.fixture
def study(tmp_path) -> str:
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    return str(tmp_path / "study.yaml")


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ([], "--submit takes --runs"),
        (["--runs", "/shared/runs", "--check"], "--check can't go with --submit"),
        (["--runs", "/shared/runs", "--address", "auto"], "--address can't go with --submit"),
        (["--runs", "/shared/runs", "--dashboard-port", "8300"], "--dashboard-port can't go with --submit"),
    ],
)
def test_what_does_not_go_with_it_is_refused(words, rule, study, capsys):
    with pytest.raises(SystemExit) as ended:
        main([study, "--submit", "http://127.0.0.1:1", *words])
    assert ended.value.code == 2
    assert rule in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["--webhook", "https://hooks.example/T0/hunter2"], ["--tracking-uri", "https://me:hunter2@mlflow.example"]],
)
def test_a_secret_is_not_put_where_everybody_of_the_cluster_can_read_it(words, study, capsys):
    assert main([study, "--submit", "http://127.0.0.1:1", "--runs", "/shared/runs", *words]) == 2
    error = capsys.readouterr().err
    assert "it must not have a secret in it" in error
    assert "hunter2" not in error


def test_nor_is_a_password_of_the_dashboard_s_address(study, capsys):
    assert main([study, "--submit", "http://me:hunter2@127.0.0.1:1", "--runs", "/shared/runs"]) == 2
    error = capsys.readouterr().err
    assert "it must not have a secret in it" in error
    assert "hunter2" not in error


def test_a_study_file_with_a_fault_is_not_sent(study, capsys):
    words = [study, "--submit", "http://127.0.0.1:1", "--runs", "/shared/runs", "--set", "fixed.lora_rank=0"]
    assert main(words) == 2
    assert "lora_rank" in capsys.readouterr().err


def test_where_no_dashboard_answers_that_is_said(study, capsys):
    assert main([study, "--submit", "http://127.0.0.1:1", "--runs", "/shared/runs"]) == 2
    assert "no dashboard of a Ray cluster answers at http://127.0.0.1:1: connection refused" in capsys.readouterr().err


# On a cluster


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    started = Head(TOKEN, dashboard=True, cpus=2)
    yield started.wait().wait(started.dashboard_port)
    started.end()


@dataclass
class Sent:
    """A search that was submitted, and stopped by Ray after its first epoch."""

    study: StudyFolder
    output: str
    code: int
    job: dict[str, Any]


def submitted(address: str, folder: Path, *words: str, token: str = TOKEN) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROJECT / "tune" / "run_search.py"), *words, "--submit", address]
    environment = {**os.environ, "RAY_AUTH_TOKEN": token, "HOME": str(folder)}
    return subprocess.Popen(
        [*command, "--runs", str(folder / "runs")], env=environment, cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def sent(head, tmp_path_factory) -> Sent:
    folder = tmp_path_factory.mktemp("sent")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    process = submitted(head.dashboard, folder, "study.yaml")
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if "trial 0 epoch 1/200" in line:
            break
    else:
        pytest.fail("".join(lines))
    job = re.findall(r"raysubmit_\w+", "".join(lines))[0]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    requests.post(f"{head.dashboard}/api/jobs/{job}/stop", headers=headers, timeout=30).raise_for_status()
    rest = output_of(process)
    details = requests.get(f"{head.dashboard}/api/jobs/{job}", headers=headers, timeout=30).json()
    return Sent(StudyFolder(folder / "runs" / "sent"), "".join(lines) + rest, process.returncode, details)


@pytest.mark.slow
def test_the_job_says_what_it_searches_and_by_which_command(sent):
    metadata = {"study": "sent", "metric": "ndcg_at_10", "trials": "1", "runs": str(sent.study.path.parent)}
    assert sent.job["metadata"] == metadata
    assert shlex.split(sent.job["entrypoint"]) == [
        *("${RERANKER_TUNER_PYTHON:-python}", "-m", "tune.run_search", "study.yaml"),
        *("--runs", str(sent.study.path.parent), "--address", "auto"),
    ]


@pytest.mark.slow
def test_its_log_is_the_search_s_and_is_shown_where_it_was_submitted(sent, head):
    assert f"page:  {head.dashboard}/#/jobs/raysubmit_" in sent.output
    assert "study sent: 1 trial by ndcg_at_10" in sent.output
    assert "cluster: 1 node" in sent.output


@pytest.mark.slow
def test_a_job_that_is_stopped_ends_as_a_search_does(sent):
    assert sent.code != 0
    assert sent.job["status"] == "STOPPED"
    assert "ranks the true item first for" in sent.output
    assert sent.study.read_ending() == {"reason": "interrupted", "complete": False}
    assert [str(trial.status) for trial in sent.study.trials()] == ["interrupted"]


@pytest.mark.slow
def test_it_says_how_to_go_on_from_where_it_was_submitted(sent, head):
    runs = sent.study.path.parent
    assert f"reranker-tuner search --submit {head.dashboard} --runs {runs} --resume sent" in sent.output


@pytest.mark.slow
def test_a_token_that_is_missing_is_named(head, tmp_path, study):
    process = submitted(head.dashboard, tmp_path, study, token="cd" * 32)
    output = output_of(process)
    assert process.returncode == 2
    assert "asks for a token, and there is none here that it takes" in output


@pytest.mark.slow
def test_what_answers_but_is_no_dashboard_is_told(head, tmp_path, study):
    process = submitted(f"http://127.0.0.1:{head.port}", tmp_path, study)
    output = output_of(process)
    assert process.returncode == 2
    assert "is no dashboard of a Ray cluster" in output
