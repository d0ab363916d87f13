"""A slot that loses its workers, or their memory: real processes, a real SIGKILL, a real limit."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from results.study.study_folder import StudyFolder

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parents[2]
STUDY = """
study:
  name: small
  trials: 3
  concurrency: 1
  scheduler: none
  start_from: [{micro_batch: 8}, {micro_batch: 512}, {micro_batch: 500}]
data: {source: demo, users: 512, interactions_per_user: 5}
fixed: {model: demo-small, epochs: 2, examples_per_user: 1, effective_batch: 512, learning_rate: 1.0e-2, list_sharing: 1}
space:
  micro_batch: {choice: [8, 512, 500]}
"""


class RunningSearch:
    """A search in a process of its own, whose trials are watched through their folders: a line printed comes later."""

    def __init__(self, folder: Path, study: str, *arguments: str, **environment: str) -> None:
        (folder / "study.yaml").write_text(study, encoding="utf-8")
        self._mark, self._printed = uuid.uuid4().hex, folder / "printed.log"
        with self._printed.open("w") as printed:
            self._process = subprocess.Popen(
                [sys.executable, str(PROJECT / "tune" / "run_search.py"), "study.yaml", "--runs", "runs", *arguments],
                stdout=printed,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, "RERANKER_TEST": self._mark, **environment},
            )
        self.study = StudyFolder(folder / "runs" / str(yaml.safe_load(study)["study"]["name"]))

    @property
    def printed(self) -> str:
        return self._printed.read_text(encoding="utf-8")

    def wait_for_epoch(self, trial: int, epoch: int) -> None:
        while not (self.study.trial(trial).path.exists() and len(self.study.trial(trial).read_reports()) >= epoch):
            assert self._process.poll() is None, self.printed
            time.sleep(0.02)

    def processes(self) -> Iterator[psutil.Process]:
        """The search's own, and those that it has started."""
        for process in psutil.process_iter():
            try:
                if process.environ().get("RERANKER_TEST") == self._mark:
                    yield process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue

    def worker(self) -> psutil.Process:
        """The training process, once there is one."""
        while True:
            for process in self.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "TrainWorker" in " ".join(process.cmdline()):
                        return process
            assert self._process.poll() is None, self.printed
            time.sleep(0.1)

    def listens_on(self) -> set[str]:
        """Addresses at which something of the search can be reached."""
        return {
            connection.laddr.ip
            for process in self.processes()
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        }

    def wait(self) -> StudyFolder:
        assert self._process.wait(timeout=300) == 0, self.printed
        return self.study


@pytest.fixture(scope="module")
def afflicted(tmp_path_factory):
    """Trial 0 loses its worker after the first epoch; what takes its place can't get memory for trial 1's passes."""
    # What is freed goes back at once. Else one small block of another thread on top of the heap keeps all below it.
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    search = RunningSearch(tmp_path_factory.mktemp("afflicted"), STUDY, "--no-dashboard", **malloc)
    search.wait_for_epoch(0, 1)
    search.worker().kill()
    search.wait_for_epoch(0, 2)
    worker = search.worker()
    limit = worker.memory_info().vms + 700 * 2**20  # passes of 512 take over 1,200 MiB, those of 8 under 250
    worker.rlimit(resource.RLIMIT_AS, (limit, limit))
    return search.wait()


def test_workers_that_die_are_replaced_and_the_trial_goes_on_from_its_last_epoch(afflicted):
    trial, folder = next(afflicted.trials()), afflicted.trial(0)
    assert (trial.status, [figures["epoch"] for figures in trial.reports]) == ("completed", [1, 2])
    assert [figures["applied/examples"] for figures in trial.reports] == [512, 1024]
    (note,) = folder.read_notes()
    assert "its workers died" in note
    assert "new ones went on from its last state" in note


def test_out_of_memory_halves_the_micro_batch_and_leaves_the_effective_one(afflicted):
    _, trial, later = afflicted.trials()
    log = (afflicted.trial(1).path / "train.log").read_text()
    assert trial.status == later.status == "completed", (trial.cause, later.cause, log[-8000:])
    notes = afflicted.trial(1).read_notes()
    assert notes[0] == "out of memory at micro batch 512; went on with 256"
    halved_to = [int(note.split()[-1]) for note in notes]
    assert {figures["applied/micro_batch"] for figures in trial.reports} <= set(halved_to), "the largest pass so far"
    assert [figures["applied/optimizer_steps"] for figures in trial.reports] == [1, 2]
    assert afflicted.trial(2).read_notes() == [], "what fits is known by then"
    assert later.reports[-1]["applied/micro_batch"] == halved_to[-1]


UNLUCKY = """
study: {name: unlucky, trials: 2, concurrency: 1, scheduler: none}
data: {source: demo, users: 512, interactions_per_user: 5}
resources: {idle_seconds: 0.5, hang_minutes: 0.5}
fixed: {model: demo-tiny, epochs: 5, examples_per_user: 1}
space:
  learning_rate: {choice: [1.0e-2, 1.0e-3]}
"""


@contextlib.contextmanager
def small_memory() -> Iterator[Path | None]:
    """A control group of this machine's with next to no memory; None where there can be none."""
    group = _limited_group(f"reranker-test-{uuid.uuid4().hex}")
    try:
        yield group
    finally:
        if group:
            group.rmdir()


def _limited_group(name: str) -> Path | None:
    for top, limit in (("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")):
        group = Path(top) / name
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit).exists():
            (group / limit).write_text(str(4 * 2**20))
            return group
        group.rmdir()
    return None


@pytest.fixture(scope="module")
def unlucky(tmp_path_factory):
    """Without a dashboard. Trial 0 is paused after its first epochs. After the third its worker hangs, after the fourth
    it is killed. Trial 1 is killed by the system after its first epoch, for want of memory, where that can be brought about.

    Gives the study, whether the worker was gone during the pause, what was printed, and at which addresses something
    listened.
    """
    search = RunningSearch(tmp_path_factory.mktemp("unlucky"), UNLUCKY, "--no-dashboard")
    search.wait_for_epoch(0, 1)
    addresses = search.listens_on()
    worker = search.worker()
    search.study.control.mkdir(exist_ok=True)
    search.study.paused.touch()  # seen at the end of an epoch
    gone = worker in psutil.wait_procs([worker], timeout=60)[0]
    search.study.paused.unlink()
    search.wait_for_epoch(0, 3)
    hanging = search.worker()
    hanging.suspend()
    search.wait_for_epoch(0, 4)
    assert not hanging.is_running()
    search.worker().kill()
    with small_memory() as group:
        if group:
            search.wait_for_epoch(1, 1)
            worker = search.worker()
            (group / "cgroup.procs").write_text(str(worker.pid))
            psutil.wait_procs([worker], timeout=60)
    return search.wait(), gone, search.printed, addresses, group is not None


def test_a_pause_gives_the_workers_back_and_the_trial_goes_on_afterwards(unlucky):
    study, gone, *_ = unlucky
    assert gone
    trial = next(study.trials())
    assert [figures["applied/examples"] for figures in trial.reports] == [512, 1024, 1536, 2048]


def test_workers_that_hang_are_replaced_and_the_trial_goes_on_from_its_last_epoch(unlucky):
    (note,) = unlucky[0].trial(0).read_notes()
    assert note == (
        "its workers died (nothing was heard of them for 0.5 minutes); new ones went on from its last state"
    )


def test_a_second_death_is_the_trial_s_failure_and_the_next_trial_s_fresh_start(unlucky):
    study, *_ = unlucky
    first, second = study.trials()
    assert first.status == "failed"
    assert "its workers died a second time" in first.cause
    assert (second.status, len(second.reports)) == ("completed", 5)


def test_workers_that_the_system_kills_for_want_of_memory_are_replaced_once(unlucky):
    study, *_, had_no_memory = unlucky
    if not had_no_memory:
        pytest.skip("a control group with little memory needs root and a cgroup that can be written")
    killed = "the host was out of memory, so the system killed a process of the search"
    assert study.trial(1).read_notes() == [f"{killed}; new ones went on from its last state"]


def test_a_search_without_a_dashboard_says_so(unlucky):
    assert "Ray dashboard: none" in unlucky[2]


def test_no_process_of_a_search_can_be_reached_from_another_machine(unlucky):
    assert unlucky[3] <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


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
    figures = [[{k: v for k, v in t.reports[0].items() if k not in timed} for t in s.trials()] for s in (slot, trial)]
    assert figures[0] == figures[1]
    groups = [len(list((study.path / "ray").glob("slot-*"))) for study in (slot, trial)]
    assert groups == [1, 2]
