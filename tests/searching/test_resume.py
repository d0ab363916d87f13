"""Stop, kill and resume: real processes, real signals, and an outcome that does not tell how often it was disturbed."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pandas as pd
import psutil
import pytest
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from reranker.errors import EnvironmentFault, InputError
from results.study.study_folder import StudyFolder
from results.study.tracking_address import tracking_uri_of
from tests.ended import PATIENCE_S, output_of
from tests.object_store import BUCKET, SECRET, has_object_store, object_store
from tune.run_search import main as run_search_main
from tune.searching import stop_pause_requests

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parents[2]
STUDY = """
study:
  name: small
  trials: 6
  seed: 3
  concurrency: 1
  reports_per_epoch: 2
  checkpoint_minutes: 0
  start_from: [{epochs: 3, learning_rate: 3.7e-3}]
data: {source: demo, users: 160, interactions_per_user: 5}
fixed: {model: demo-tiny, examples_per_user: 1, lora_dropout: 0.1}
space:
  epochs: {int: [2, 3]}
  learning_rate: {log_uniform: [1.0e-3, 1.0e-2]}
  lora_rank: {int: [2, 8]}
"""
KILLED_AT = ["sampling", "training", "saving", "reporting", "deciding", "telling", "logging"]


def launch(folder: Path, *arguments: str, moment: str = "", mark: str = "") -> subprocess.Popen[str]:
    script = [str(PROJECT / "tests" / "killed.py"), moment or "never"]
    return subprocess.Popen(
        [sys.executable, *script, *arguments, "--runs", str(folder / "runs"), "--no-dashboard"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, "RERANKER_TEST": mark},
        start_new_session=True,
    )


def new_study(folder: Path) -> str:
    file = folder / "study.yaml"
    file.write_text(STUDY, encoding="utf-8")
    return str(file)


def left_behind(mark: str) -> list[str]:
    """Processes that a launch with this mark in its environment has started and that live on."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RERANKER_TEST") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:80])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def table(study: StudyFolder) -> pd.DataFrame:
    return pd.read_csv(study.leaderboard).drop(columns="seconds")


def mlflow_runs(study: StudyFolder) -> dict[str, str]:
    """The status of each trial's run, and of the study's; a trial, a baseline or a study with two runs is a fault."""
    client = MlflowClient(tracking_uri=tracking_uri_of(study))
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    names = [run.data.tags.get("trial", run.info.run_name) for run in runs]
    assert sorted(names) == sorted(set(names))
    ours = [run for run in runs if run.data.tags["kind"] in ("study", "trial")]
    return {run.data.tags.get("trial", "study"): run.info.status for run in ours}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    process = launch(folder, new_study(folder))
    out = output_of(process)
    assert process.returncode == 0, out
    return StudyFolder(folder / "runs" / "small")


def test_a_search_that_was_killed_again_and_again_ends_as_if_it_never_was(undisturbed, tmp_path):
    arguments = [new_study(tmp_path)]
    for moment in KILLED_AT:
        mark = uuid.uuid4().hex
        process = launch(tmp_path, *arguments, moment=moment, mark=mark)
        out = output_of(process)
        assert process.returncode == -signal.SIGKILL, f"{moment}: {out}"
        deadline = time.monotonic() + PATIENCE_S
        while left_behind(mark) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert left_behind(mark) == []
        arguments = ["--resume", "small"]
    study = StudyFolder(tmp_path / "runs" / "small")
    process = launch(tmp_path, *arguments, moment="raylet")
    out = output_of(process)
    assert process.returncode == 1, out
    assert "Ray's process raylet" in out
    assert f"--resume {study.path}" in out
    assert "Traceback" not in out
    assert [str(trial.status) for trial in study.trials()][4:] == ["interrupted"]
    assert "Ray's process raylet" in study.read_ending()["reason"]
    process = launch(tmp_path, *arguments)
    out = output_of(process)
    assert process.returncode == 0, out

    pd.testing.assert_frame_equal(table(study), table(undisturbed))
    assert study.best_config.read_text() == undisturbed.best_config.read_text()
    journals = [
        optuna.load_study(study_name="small", storage=JournalStorage(JournalFileBackend(str(s.journal)))).trials
        for s in (study, undisturbed)
    ]
    told = [[(t.number, t.state, t.params, t.intermediate_values, t.value) for t in trials] for trials in journals]
    assert told[0] == told[1]
    runs = mlflow_runs(study)
    assert runs == mlflow_runs(undisturbed)
    assert set(runs) == {"study", "0", "1", "2", "3", "4", "5"}
    assert "RUNNING" not in runs.values()


def test_a_search_may_go_on_by_itself_after_a_fault_of_the_machine(undisturbed, tmp_path):
    process = launch(tmp_path, new_study(tmp_path), "--max-restarts", "2", moment="raylet")
    out = output_of(process, 600)  # two launches
    study = StudyFolder(tmp_path / "runs" / "small")
    assert process.returncode == 0, out
    assert out.count("ended early: a fault of the machine: Ray's process raylet on this machine is gone") == 1
    assert "going on by itself in 30 s, and may do so 1 time more; Ctrl-C leaves it as it is" in out
    assert "study small goes on: 4 of 6 trials have ended" in out
    pd.testing.assert_frame_equal(table(study), table(undisturbed))
    assert study.best_config.read_text() == undisturbed.best_config.read_text()


@pytest.fixture
def copies(tmp_path, monkeypatch) -> Iterator[str]:
    """Where copies of studies are kept: a real S3 server where there is one, else a folder."""
    if not has_object_store():
        yield f"file://{tmp_path}/copies"
        return
    (tmp_path / "seaweedfs").mkdir()
    with object_store(tmp_path / "seaweedfs") as store:
        for name, value in store.variables.items():
            monkeypatch.setenv(name, value)
        yield f"s3://{BUCKET}/team"


def test_a_search_whose_machine_is_lost_goes_on_from_its_copy_as_if_it_never_was(undisturbed, copies, tmp_path):
    (tmp_path / "lost").mkdir()
    process = launch(tmp_path / "lost", new_study(tmp_path / "lost"), "--copy-to", copies, moment="deciding")
    out = output_of(process)
    assert process.returncode == -signal.SIGKILL, out
    shutil.rmtree(tmp_path / "lost")
    (tmp_path / "other").mkdir()
    process = launch(tmp_path / "other", "--resume", f"{copies}/small")
    out = output_of(process)
    assert process.returncode == 0, out
    assert f"fetching small from {copies}/small" in out
    assert f"The copy at {copies}/small has everything" in out
    study = StudyFolder(tmp_path / "other" / "runs" / "small")
    pd.testing.assert_frame_equal(table(study), table(undisturbed))
    assert run_search_main(["--resume", f"{copies}/small", "--runs", str(tmp_path / "third"), "--check"]) == 0
    pd.testing.assert_frame_equal(table(StudyFolder(tmp_path / "third" / "small")), table(undisturbed))
    kept = [path for path in study.path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert kept == []
    assert SECRET not in out


@pytest.fixture
def small_disk(tmp_path):
    """A real file system with room for little more than a study."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_search_whose_disk_was_full_ends_as_if_it_never_was(undisturbed, small_disk):
    process = launch(small_disk, new_study(small_disk))
    said = "".join(read_until(process, "trial 1 epoch 1/"))
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**16))
    out = output_of(process)
    assert process.returncode == 1, said + out
    print(out)
    assert f"--resume {small_disk / 'runs' / 'small'}" in out
    assert "no space is left on the disk" in out
    assert "Traceback" not in out
    filler.unlink()
    study = StudyFolder(small_disk / "runs" / "small")
    assert "failed" not in [trial.status for trial in study.trials()]
    process = launch(small_disk, "--resume", "small")
    out = output_of(process)
    assert process.returncode == 0, out
    pd.testing.assert_frame_equal(table(study), table(undisturbed))


def test_a_search_whose_terminal_is_closed_ends_cleanly_with_a_report(tmp_path):
    master, slave = pty.openpty()
    script = [sys.executable, str(PROJECT / "tune" / "run_search.py"), new_study(tmp_path)]
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        ["setsid", "--ctty", *script, "--runs", str(tmp_path / "runs")],  # a session of its own on that terminal
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "RERANKER_TEST": mark, "TERM": "xterm"},
    )
    os.close(slave)
    study, shown = StudyFolder(tmp_path / "runs" / "small"), b""
    while not study.trial(1).read_reports():
        if select.select([master], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):  # the search has ended, which must not be
                shown += os.read(master, 2**16)
        assert process.poll() is None, shown.decode()
    os.close(master)  # the terminal is gone, and the kernel says so to the session
    assert process.wait(timeout=PATIENCE_S) == 130
    assert b"starting" in shown.splitlines()[0]
    assert study.read_ending() == {"reason": "interrupted", "complete": False}
    assert {str(trial.status) for trial in study.trials()} <= {"completed", "interrupted"}
    assert len(study.numbers()) < 6
    assert study.report.stat().st_size > 50_000
    deadline = time.monotonic() + 60
    while left_behind(mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left_behind(mark) == []


STEERED = """
study: {name: small, trials: 3, seed: 3, concurrency: 1, scheduler: none}
data: {source: demo, users: 300, interactions_per_user: 5}
fixed: {model: demo-tiny, examples_per_user: 1, epochs: 4}
space:
  learning_rate: {log_uniform: [1.0e-3, 1.0e-2]}
  lora_rank: {int: [2, 8]}
"""


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"{text!r} was never said:\n{''.join(lines)}")


@dataclass
class Steered:
    """What was seen of a search that was paused, added to, stopped in part, interrupted and resumed."""

    study: StudyFolder
    epochs_while_paused: list[int]
    refused: str
    interrupted: str
    code: int
    left: list[str]
    statuses: list[str]
    resumed: str


@pytest.fixture(scope="module")
def steered(tmp_path_factory):
    folder, mark = tmp_path_factory.mktemp("steered"), uuid.uuid4().hex
    file = folder / "study.yaml"
    file.write_text(STEERED, encoding="utf-8")
    process = launch(folder, str(file), mark=mark)
    before = read_until(process, "trial 0 epoch 1/4")
    study = StudyFolder(folder / "runs" / "small")
    stop_pause_requests.ask(study, "pause")
    counts, deadline = list[int](), time.monotonic() + 60
    while len(study.trial(0).read_reports()) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)  # an epoch that has begun is trained to its end
    for _ in range(2):
        counts.append(len(study.trial(0).read_reports()))
        time.sleep(4)
    stop_pause_requests.ask(study, "add", values={"learning_rate": 5e-3, "lora_rank": 3})
    with pytest.raises(InputError) as refusal:
        stop_pause_requests.ask(study, "add", values={"lora_rank": 99, "nonsense": 1})
    stop_pause_requests.ask(study, "stop", trial=0)
    command = [sys.executable, str(PROJECT / "tune" / "run_search.py"), "control", str(study.path), "resume"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "resumed"), done.stderr
    before += read_until(process, "trial 1 epoch 2/4")
    os.kill(process.pid, signal.SIGINT)
    out = output_of(process)
    deadline = time.monotonic() + 60
    while left_behind(mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    left, statuses = left_behind(mark), [str(trial.status) for trial in study.trials()]
    resumed = output_of(launch(folder, "--resume", "small"))
    interrupted = "".join(before) + out
    return Steered(study, counts, str(refusal.value), interrupted, process.returncode, left, statuses, resumed)


def test_a_paused_search_stands_still(steered):
    assert steered.epochs_while_paused[0] == steered.epochs_while_paused[1]


def test_a_trial_can_be_stopped_by_hand(steered):
    first = next(steered.study.trials())
    assert (first.status, first.cause) == ("pruned", "stopped by hand")
    assert len(first.reports) < 4


def test_an_added_configuration_is_tried_next_and_marked(steered):
    _, second, *_ = steered.study.trials()
    assert (second.name, second.values["learning_rate"], second.values["lora_rank"]) == ("trial 1 (added)", 5e-3, 3)
    assert "trial 1 (added)" in list(pd.read_csv(steered.study.leaderboard)["name"])


def test_what_cannot_be_added_is_refused_with_every_fault(steered):
    assert "lora_rank" in steered.refused
    assert "99" in steered.refused
    assert "nonsense" in steered.refused


def test_what_was_done_by_hand_is_recorded_as_tags(steered):
    acts = [act["act"] for act in steered.study.acts()]
    assert [act.split(":")[0].split(",")[0] for act in acts if act.endswith("(control)")] == [
        "paused",
        "added",
        "trial 0 stops at its next step",
        "resumed (control)",
    ]
    client = MlflowClient(tracking_uri=tracking_uri_of(steered.study))
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    tags = next(run.data.tags for run in runs if run.data.tags["kind"] == "study")
    assert [text.split(" ", 2)[2] for name, text in sorted(tags.items()) if name.startswith("act.")] == acts
    assert next(run.data.tags["cause"] for run in runs if run.data.tags.get("trial") == "0") == "stopped by hand"
    assert next(run.data.tags["origin"] for run in runs if run.data.tags.get("trial") == "1") == "added"


def test_ctrl_c_ends_cleanly_with_a_report_and_says_how_to_go_on(steered):
    assert steered.code == 130, (steered.study.path / "driver.log").read_text(encoding="utf-8")[-3000:]
    assert "ranks the true item first for" in steered.interrupted
    assert f"--resume {steered.study.path}" in steered.interrupted
    assert steered.statuses == ["pruned", "interrupted"]
    assert steered.left == []


def test_after_ctrl_c_the_running_trial_goes_on_from_its_last_epoch(steered):
    assert "trial 1 epoch 2/4 (kept)" in steered.resumed
    assert "trial 1 epoch 3/4 (kept)" not in steered.resumed
    trials = list(steered.study.trials())
    assert [str(trial.status) for trial in trials] == ["pruned", "completed", "completed", "completed"]
    assert [e["epoch"] for e in trials[1].reports] == [1, 2, 3, 4]
    assert [e["applied/examples"] for e in trials[1].reports] == [300, 600, 900, 1200]
    assert mlflow_runs(steered.study) == dict.fromkeys(["study", "0", "1", "2", "3"], "FINISHED")


def test_two_searches_in_one_folder_are_refused(undisturbed):
    with undisturbed.locked(), pytest.raises(EnvironmentFault, match="a search is running"), undisturbed.locked():
        pass


def test_control_of_a_search_that_does_not_run_is_refused(undisturbed):
    with pytest.raises(EnvironmentFault, match="no search is running"):
        stop_pause_requests.ask(undisturbed, "pause")


def test_a_resumed_search_that_is_complete_adds_nothing(undisturbed):
    before = table(undisturbed)
    process = launch(undisturbed.path.parents[1], "--resume", "small", "--quiet")
    out = output_of(process)
    assert process.returncode == 0, out
    pd.testing.assert_frame_equal(table(undisturbed), before)


def test_a_study_does_not_go_on_in_another_space(undisturbed, capsys):
    runs = str(undisturbed.path.parent)
    assert run_search_main(["--resume", "small", "--runs", runs, "--set", "lora_rank=4"]) == 2
    assert "must stay as they were when the study began" in capsys.readouterr().err
