"""A search on two nodes that share nothing: the second sees neither the studies nor the code nor the first one's caches."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import ray

from results.study.study_folder import StudyFolder
from tests.ended import output_of

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.path.realpath(sys.prefix)) / "bin" / "python"
NAMESPACE = ("unshare", "--mount", "--propagation", "private")
APART = """
set -e
[ -z "$VENV_INSIDE" ] || {{ mkdir -p {aside}; mount --bind {venv} {aside}; }}
mount -t tmpfs none {project}
[ -z "$VENV_INSIDE" ] || {{ mkdir -p {venv}; mount --bind {aside} {venv}; }}
mount -t tmpfs none {runs}
export HOME={home}
cd /
exec {ray} start --address={address} --node-ip-address={ip} --num-cpus=1 --block --disable-usage-stats
"""
EPOCHS = 8  # so many that no trial has ended when another one has begun, or has lost its node
STUDY = """
study: {{name: far, trials: {trials}, scheduler: none, seed: 3}}
resources: {{idle_seconds: 1}}
data: {{source: demo, users: 400, interactions_per_user: 5}}
fixed: {{model: demo-tiny, examples_per_user: 1, epochs: {epochs}}}
space:
  learning_rate: {{log_uniform: [1.0e-3, 1.0e-2]}}
"""


def can_be_apart() -> bool:
    done = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    return done.returncode == 0


needs_namespaces = pytest.mark.skipif(
    not shutil.which("unshare") or not can_be_apart(), reason="a mount namespace can't be made here"
)


@dataclass
class Machines:
    """A head with one CPU, and nodes on other loopback addresses that see nothing of this machine's."""

    folder: Path
    address: str
    variables: dict[str, str]
    stack: ExitStack

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def join(self, number: int) -> subprocess.Popen[bytes]:
        """One more node, with one CPU, on 127.0.0.`number`."""
        home = self.folder / f"home-{number}"
        home.mkdir()
        venv = PYTHON.parents[1]
        script = APART.format(
            aside=self.folder / f"venv-{number}", venv=venv, project=PROJECT, runs=self.runs, home=home,
            ray=f"{PYTHON} -m ray.scripts.scripts", address=self.address, ip=f"127.0.0.{number}",
        )  # fmt: skip
        inside = "1" if venv.is_relative_to(PROJECT) else ""
        log = self.stack.enter_context((self.folder / f"node-{number}.log").open("wb"))
        process = subprocess.Popen(
            [*NAMESPACE, "sh", "-c", script], env={**self.variables, "VENV_INSIDE": inside}, stdout=log, stderr=log
        )
        self.stack.callback(end, process)
        wait_for(lambda: "Ray runtime started" in Path(log.name).read_text(), Path(log.name))
        return process

    def search(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(PROJECT / "tune" / "run_search.py"), *arguments, "--runs", str(self.runs),
             "--address", self.address],
            env=self.variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.stack.callback(end, process)
        return process

    def study_file(self, trials: int, epochs: int) -> str:
        file = self.folder / "far.yaml"
        file.write_text(STUDY.format(trials=trials, epochs=epochs), encoding="utf-8")
        return str(file)

    @property
    def study(self) -> StudyFolder:
        return StudyFolder(self.runs / "far")


def listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex((ray.util.get_node_ip_address(), port)) == 0


def wait_for(happens: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 300
    while not happens():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """A process with all that it has started, at once, as when a machine loses its power."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait(timeout=30)


@contextmanager
def machines(folder: Path) -> Iterator[Machines]:
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    variables |= {"RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    (folder / "runs").mkdir()
    with ExitStack() as stack:
        log = stack.enter_context((folder / "head.log").open("wb"))
        head = subprocess.Popen(
            [str(PYTHON), "-m", "ray.scripts.scripts", "start", "--head", f"--port={port}", "--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats", "--block"],
            env=variables, stdout=log, stderr=log,
        )  # fmt: skip
        stack.callback(end, head)
        wait_for(lambda: listens(port), folder / "head.log")
        yield Machines(folder, f"{ray.util.get_node_ip_address()}:{port}", variables, stack)


@pytest.fixture(scope="module")
def far(tmp_path_factory) -> Iterator[tuple[StudyFolder, str]]:
    """A search of three trials, two at once, one a node, and what it printed.

    The second node is lost, a third joins and is lost too. What ran there ends on the first, which has one CPU.
    """
    folder = tmp_path_factory.mktemp("far")
    with machines(folder) as ours:
        second = ours.join(2)
        process = ours.search(ours.study_file(trials=3, epochs=EPOCHS))
        wait_for(lambda: reports(ours.study, 0) > 0 and reports(ours.study, 1) > 0, folder / "node-2.log")
        end(second)
        wait_for(lambda: bool(lost(ours.study)), folder / "node-2.log")
        (number,) = lost(ours.study)
        before = reports(ours.study, number)
        third = ours.join(3)
        wait_for(lambda: reports(ours.study, number) > before, folder / "node-3.log")
        end(third)
        printed = output_of(process, 500)
        assert process.returncode == 0, printed
        yield ours.study, printed


def reports(study: StudyFolder, number: int) -> int:
    """How many there are; 0 where the trial is not."""
    known = study.path.exists() and number in study.numbers()
    return len(study.trial(number).read_reports()) if known else 0


def lost(study: StudyFolder) -> list[int]:
    """Trials whose node was."""
    return [number for number in study.numbers() if study.trial(number).read_notes()]


@needs_namespaces
def test_each_node_is_asked_what_it_has(far):
    _, printed = far
    assert "cluster: 2 nodes" in printed
    assert re.search(r" \(here\): 1 CPUs, no GPU, .*sees the runs folder", printed)
    assert re.search(r"127\.0\.0\.2: 1 CPUs, no GPU, .*has no access to the runs folder", printed)


@needs_namespaces
def test_trials_of_nodes_without_shared_storage_are_whole_here(far):
    study, _ = far
    for trial in study.trials():
        folder = study.trial(trial.number)
        assert (trial.status, [figures["epoch"] for figures in trial.reports]) == (
            "completed",
            list(range(1, EPOCHS + 1)),
        )
        assert (folder.adapter / "adapter_model.safetensors").exists()
        assert len(folder.read_ranks()[0]) == len(folder.read_user_ids())
        assert (folder.path / "train.log").stat().st_size > 0


@needs_namespaces
def test_a_trial_whose_node_was_lost_went_on_and_is_not_blamed(far):
    study, _ = far
    for trial in study.trials():
        assert [figures["applied/examples"] for figures in trial.reports] == [
            400 * epoch for epoch in range(1, EPOCHS + 1)
        ]
    notes = [study.trial(number).read_notes() for number in (0, 1, 2)]
    assert sorted(notes) == [[], [], 2 * ["its node was lost; new workers went on from its last state"]]


@needs_namespaces
def test_nothing_is_left_beside_the_study(far):
    study, _ = far
    assert list(study.path.parent.glob(".reached-*")) == []
