"""A study comes into being whole or not at all, whatever kills the start, and two starts get two studies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reranker.data.assemble import RerankingData
from reranker.errors import EnvironmentFault
from reranker.storage.atomic_files import write_file
from results.study.study_folder import StudyBusy, StudyFolder
from results.study.tracking_address import local_store, tracking_uri_of
from tune.launching.launch import begin_study
from tune.run_search import main as run_search_main
from tune.study_file import loading

PROJECT = Path(__file__).resolve().parents[2]
STUDY = """
study: {name: small, trials: 2}
data: {source: demo, users: 64, interactions_per_user: 5}
fixed: {model: demo-tiny}
space: {learning_rate: {log_uniform: [1.0e-3, 1.0e-2]}}
"""
BEGIN = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {project!r})
from reranker.storage import atomic_files
from reranker.data.assemble import RerankingData
from results.study.study_folder import StudyFolder
from tune.study_file import loading
from tune.launching.launch import begin_study
study = loading.load(Path({file!r}))
data = RerankingData.prepare(study.data).sealed()
def dying(owner, name, count, after):
    original, calls = getattr(owner, name), []
    def called(*args, **options):
        calls.append(1)
        if len(calls) == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **options)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, called)
dying({owner}, {name!r}, {count}, {after})
begin_study(study, data, Path({runs!r}))
"""
MOMENTS = {
    "the first file": ("atomic_files.os", "replace", 1, False),
    "the manifest": ("StudyFolder", "write_manifest", 1, False),
    "the manifest with the name": ("StudyFolder", "write_manifest", 2, True),
    "the rename": ("Path", "rename", 1, False),
}


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def begun(file: Path, **options: Any) -> StudyFolder:
    study = loading.load(file)
    return begin_study(study, RerankingData.prepare(study.data).sealed(), file.parent / "runs", **options)


def killed_at(file: Path, owner: str, name: str, count: int, after: bool) -> Path:
    runs = file.parent / "runs"
    script = BEGIN.format(
        project=str(PROJECT), file=str(file), owner=owner, name=name, count=count, after=after, runs=str(runs)
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return runs


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.slow
def test_a_start_that_is_killed_before_the_rename_leaves_no_study(moment, file):
    runs = killed_at(file, *MOMENTS[moment])
    (left,) = runs.iterdir()
    with pytest.raises(EnvironmentFault, match="there are: none"):
        StudyFolder.open(runs, "small")
    os.utime(left, (time.time() - 7200,) * 2)
    assert begun(file).name == "small"
    assert [path.name for path in runs.iterdir()] == ["small"]


@pytest.mark.slow
def test_a_start_that_is_killed_after_the_rename_leaves_a_study_that_goes_on(file, capsys):
    runs = killed_at(file, "Path", "rename", 1, True)
    assert run_search_main(["--resume", "small", "--check", "--runs", str(runs)]) == 0
    assert "study small: 2 trials" in capsys.readouterr().out
    study = StudyFolder.open(runs, "small")
    assert study.baselines() == ["collaborative", "ease", "item_knn", "markov", "popularity"]
    assert study.numbers() == []


def test_a_start_that_fails_leaves_nothing(tmp_path):
    def fill(folder: StudyFolder) -> None:
        write_file(folder.study_file, "x")
        raise EnvironmentFault("no")

    with pytest.raises(EnvironmentFault):
        StudyFolder.create(tmp_path, "x", fill)
    assert list(tmp_path.iterdir()) == []


def test_what_a_running_start_has_made_is_left_alone(tmp_path):
    def fill(folder: StudyFolder) -> None:
        os.utime(folder.path, (time.time() - 7200,) * 2)
        StudyFolder.create(tmp_path, "y")

    assert StudyFolder.create(tmp_path, "x", fill).path.is_dir()


def test_a_name_that_is_taken_meanwhile_is_not_taken_twice(tmp_path):
    def fill(folder: StudyFolder) -> None:
        folder.write_manifest({"name": "x", "metric": "recall_at_1"})
        StudyFolder.create(tmp_path, "x")

    study = StudyFolder.create(tmp_path, "x", fill)
    assert study.path.name == "x-2"
    assert study.read_manifest()["name"] == "x-2"


def test_starts_at_once_get_a_folder_each(file):
    runs = file.parent / "runs"
    script = f"""
import sys; sys.path.insert(0, {str(PROJECT)!r})
from pathlib import Path
from results.study.study_folder import StudyFolder
for _ in range(40):
    StudyFolder.create(Path({str(runs)!r}), "x", lambda folder: folder.write_manifest(dict(name="x", metric="recall_at_1")))
"""
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    names = {path.name for path in runs.iterdir()}
    assert names == {"x", *(f"x-{i}" for i in range(2, 121))}
    assert all(StudyFolder(runs / name).read_manifest()["name"] == name for name in names)


def test_the_manifest_can_rebuild_the_study_file_and_holds_no_place(file):
    study = begun(file)
    manifest = study.read_manifest()
    assert manifest["format"] == 4
    assert study.study_file.read_text().startswith(manifest["study"] + "# checksum: ")
    assert manifest["tracking_uri"] == ""
    assert str(study.path) not in str(manifest)
    moved = StudyFolder(study.path.rename(file.parent / "elsewhere"))
    assert tracking_uri_of(moved) == local_store(moved) == f"sqlite:///{file.parent}/mlflow.db"


def test_files_follow_the_umask(file):
    before = os.umask(0o077)
    try:
        study = begun(file)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o077 for path in study.path.rglob("*")} == {0}


def test_a_name_is_too_long_before_anything_is_made(tmp_path):
    with pytest.raises(EnvironmentFault, match="the name is too long"):
        StudyFolder.check_place(tmp_path, "x" * 254)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_place_for_studies(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(EnvironmentFault, match="runs is no folder"):
        StudyFolder.check_place(tmp_path / "runs" / "deeper", "x")


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else takes root")
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_a_folder_of_somebody_else_is_refused(mode, tmp_path):
    private = tmp_path / "private"
    private.mkdir(mode=mode)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(EnvironmentFault, match="no permission to write there"):
            StudyFolder.check_place(private / "runs", "x")
    finally:
        os.seteuid(0)


def test_a_lock_that_cannot_be_opened_does_not_read_as_running(tmp_path):
    study = StudyFolder.create(tmp_path, "x")
    assert not study.is_searched()
    (study.path / "search.lock").unlink()
    (study.path / "search.lock").symlink_to("search.lock")
    with pytest.raises(EnvironmentFault, match="can't be told"):
        study.is_searched()


def test_a_pipe_in_place_of_the_lock_is_told_and_not_waited_for(tmp_path):
    study = StudyFolder.create(tmp_path, "piped")
    (study.path / "search.lock").unlink(missing_ok=True)
    os.mkfifo(study.path / "search.lock")
    assert not study.is_searched()
    with pytest.raises(EnvironmentFault, match="cannot write"), study.locked():
        pass


def test_a_study_that_is_searched_is_told_from_others(tmp_path):
    study = StudyFolder.create(tmp_path, "x")
    with study.locked():
        assert study.is_searched()
        with pytest.raises(StudyBusy, match="a search is running"), study.locked():
            pass
    assert not study.is_searched()
