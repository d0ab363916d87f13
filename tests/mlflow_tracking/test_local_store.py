"""The store beside the studies of a folder: what they share, and what becomes of it when a study or all of them move."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from reranker.errors import EnvironmentFault
from results.study.study_folder import StudyFolder
from results.study.tracking_address import local_store, tracking_uri_of
from tests.tracked import Seen, add_trial, by_command, deliver, local
from tune.mlflow_tracking import moved_store, tracker
from tune.mlflow_tracking.store_driver import check_driver
from tune.mlflow_tracking.tracker import brought_up

RUNS = {"study", "0", "1", "2", "popularity", "chance"}


def study_at(study: StudyFolder, path: Path, study_id: str = "films") -> StudyFolder:
    """A copy of a stored study whose manifest names no store."""
    copy = StudyFolder(path)
    shutil.copytree(study.path, path)
    copy.write_manifest(copy.read_manifest() | {"tracking_uri": "", "study_id": study_id})
    return copy


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory) -> Path:
    """MLflow takes seconds to make one."""
    file: Path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_told_in_a_sentence(study, tmp_path, content):
    file = tmp_path / "broken.db"
    file.write_bytes(content)
    with pytest.raises(EnvironmentFault, match=r"MLflow does not take it: .*(not a database|malformed)"):
        brought_up(study, f"sqlite:///{file}")
    assert "database" in tracker.deliver(study, f"sqlite:///{file}")
    assert file.read_bytes() == content


def test_an_address_that_is_none_is_told_in_a_sentence():
    with pytest.raises(EnvironmentFault, match=r"--tracking-uri http://\[::1 is no address: Invalid IPv6 URL"):
        check_driver("http://[::1")


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_store_in_memory_is_refused(uri):
    with pytest.raises(EnvironmentFault, match=f"--tracking-uri {uri} is kept in memory alone: name a file"):
        check_driver(uri)


@pytest.fixture
def films(study, empty_store, tmp_path) -> StudyFolder:
    """A finished study that is in the store of its folder `runs`."""
    found = study_at(study, tmp_path / "runs" / "films")
    shutil.copy(empty_store, found.path.parent)
    deliver(found)
    return found


@pytest.fixture
def moved(films, tmp_path) -> StudyFolder:
    """The same after all of `runs` has moved."""
    shutil.move(films.path.parent, tmp_path / "new place")
    return StudyFolder(tmp_path / "new place" / "films")


def test_studies_that_lie_beside_each_other_stand_beside_each_other_in_mlflow(films, study):
    books = study_at(study, films.path.parent / "books", "books")
    assert local_store(books) == local_store(films) == f"sqlite:///{films.path.parent}/mlflow.db"
    deliver(books)
    assert set(Seen(films).runs) == set(Seen(books).runs) == RUNS
    names = {experiment.name for experiment in MlflowClient(local_store(films)).search_experiments()}
    assert {"films", "books"} <= names


@pytest.mark.slow
def test_studies_that_were_moved_take_their_store_along(moved, films):
    assert f"sqlite:///{moved.path.parent}/mlflow.db" in by_command(moved)
    seen = Seen(moved)
    assert set(seen.runs) == RUNS
    for run, artifact in [("0", "adapter/adapter_config.json"), ("study", "leaderboard.csv")]:
        folder = local(seen.runs[run].info.artifact_uri)
        assert folder.is_relative_to(moved.path.parent / "mlartifacts")
        fetched = Path(seen.client.download_artifacts(seen.runs[run].info.run_id, artifact))
        assert fetched.read_text() == (folder / artifact).read_text()
    assert not films.path.parent.exists()


@pytest.mark.slow
def test_an_older_study_that_has_a_store_of_its_own_keeps_it_and_takes_it_along(study, empty_store, tmp_path):
    old = study_at(study, tmp_path / "old place" / "films")
    old.write_manifest(old.read_manifest() | {"tracking_uri": f"sqlite:///{old.path}/mlflow.db"})
    shutil.copy(empty_store, old.path)
    deliver(old)
    shutil.move(old.path.parent, tmp_path / "new place")
    found = StudyFolder(tmp_path / "new place" / "films")
    assert f"sqlite:///{found.path}/mlflow.db" in by_command(found)
    assert local(Seen(found).runs["0"].info.artifact_uri).is_relative_to(found.path / "mlartifacts")


@pytest.mark.slow
def test_a_study_that_moves_alone_is_delivered_to_the_store_of_its_new_place(films, tmp_path):
    there = StudyFolder(tmp_path / "elsewhere" / "films")
    there.path.parent.mkdir()
    films.path.rename(there.path)
    by_command(there)
    assert set(Seen(there).runs) == RUNS
    assert tracking_uri_of(there) == f"sqlite:///{tmp_path}/elsewhere/mlflow.db"


def test_a_study_that_was_renamed_has_the_same_runs_under_its_new_name(films):
    before = {key: run.info.run_id for key, run in Seen(films).runs.items() if key != "study"}
    renamed = StudyFolder(films.path.rename(films.path.with_name("movies")))
    deliver(renamed)
    seen = Seen(renamed)
    assert {key: run.info.run_id for key, run in seen.runs.items() if key in before} == before
    assert seen.client.get_experiment_by_name("films") is None


@pytest.mark.slow
def test_a_copy_beside_the_study_has_runs_of_its_own(films):
    copy = StudyFolder(films.path.with_name("films too"))
    shutil.copytree(films.path, copy.path)
    add_trial(copy, 3, [0.6])
    deliver(copy)
    assert "3" in Seen(copy).runs
    assert set(Seen(films).runs) == RUNS


@pytest.mark.slow
def test_the_store_of_copied_studies_is_their_own(moved, tmp_path):
    by_command(moved)
    before = sorted(moved.path.parent.rglob("*"))
    copy = StudyFolder(tmp_path / "copy" / "films")
    shutil.copytree(moved.path.parent, copy.path.parent)
    add_trial(copy, 3, [0.6])
    by_command(copy)
    seen = Seen(copy)
    assert local(seen.runs["3"].info.artifact_uri).is_relative_to(copy.path.parent)
    assert seen.artifacts("3") == {"adapter"}
    assert "3" not in Seen(moved).runs
    assert sorted(moved.path.parent.rglob("*")) == before


def test_an_experiment_that_somebody_has_deleted_comes_back_with_the_study(films):
    client = MlflowClient(local_store(films))
    client.delete_experiment(Seen(films).experiment.experiment_id)
    deliver(films)
    assert client.get_experiment_by_name("films").lifecycle_stage == "active"


def test_only_addresses_in_the_former_place_follow(moved):
    database = moved.path.parent / "mlflow.db"
    with closing(sqlite3.connect(database)) as store, store:
        (old,) = store.execute("SELECT artifact_location FROM experiments WHERE name = 'films'").fetchone()
        other = f"{old}-2/x"
        store.execute("UPDATE runs SET artifact_uri = ? WHERE name = 'chance'", (other,))
    assert moved_store.follow(moved) == 1 + 5 + 2  # the experiment, all runs but chance, the adapters of two trials
    assert moved_store.follow(moved) == 0
    with closing(sqlite3.connect(database)) as store:
        found = dict(store.execute("SELECT name, artifact_uri FROM runs"))
    assert found["chance"] == other
    assert found["popularity"].startswith((moved.path.parent / "mlartifacts").as_uri() + "/")


def test_a_store_that_is_no_database_is_said(moved):
    (moved.path.parent / "mlflow.db").write_text("no database, but long enough to be taken for one " * 20)
    with pytest.raises(EnvironmentFault, match=r"mlflow\.db could not be updated to where its studies are now"):
        moved_store.follow(moved)
