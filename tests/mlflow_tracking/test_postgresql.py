"""PostgreSQL as MLflow's store: a server that goes down and comes back loses nothing, and its password is nowhere."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reranker.errors import EnvironmentFault
from results.study.study_folder import StudyFolder
from results.study.tracking_address import keep_secret_uri
from tests.ended import PATIENCE_S
from tests.postgresql import PASSWORD, PostgreSQL, postgresql
from tests.tracked import Seen, add_trial, make_study
from tune.mlflow_tracking.store_driver import check_driver
from tune.mlflow_tracking.tracker import Tracker


def test_a_driver_that_is_missing_is_a_sentence_with_pip_s_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(EnvironmentFault) as caught:
        check_driver(f"postgresql://mlflow:{PASSWORD}@db/mlflow")
    assert str(caught.value) == (
        "--tracking-uri postgresql://***@db/mlflow needs the package psycopg: pip install 'reranker-tuner[postgres]'"
    )


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("postgresql+nosuch://me:hunter2@db/x", "--tracking-uri postgresql+nosuch://***@db/x: SQLAlchemy knows no such driver"),
        ("postgresql://me:hunter2@db:port/x", "--tracking-uri postgresql://***@db:port/x is no address of a database"),
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_a_sentence_without_its_password(uri, said):
    with pytest.raises(EnvironmentFault) as caught:
        check_driver(uri)
    assert str(caught.value) == said


def test_other_stores_need_no_driver():
    for uri in ("", "sqlite:////tmp/x.db", "http://127.0.0.1:5000", "file:///tmp/x"):
        check_driver(uri)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg, which talks to PostgreSQL, is not installed: pip install 'reranker-tuner[postgres]'")
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder, postgresql(Path(folder)) as running:
        yield running


@pytest.mark.slow
def test_a_server_that_goes_down_and_comes_back_has_everything_once(server, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    study, said = make_study(tmp_path / "runs", ""), list[str]()
    study.write_manifest(study.read_manifest() | {"tracking_uri": server.uri.replace(f"mlflow:{PASSWORD}", "***")})
    keep_secret_uri(study, server.uri)
    tracker = Tracker(study, server.uri, said.append, ask=never_asked)
    tracker.start()
    tracker.nudge()
    wait_for(lambda: tracker.leaderboard_link)
    server.stop()
    add_trial(study, 3, [0.25, 0.35])
    tracker.nudge()
    wait_for(lambda: said)
    server.start()
    assert tracker.finish(), tracker.trouble
    assert said[0].startswith("MLflow does not have everything (")
    assert said[1:] == ["MLflow has everything again"]
    seen = Seen(study)
    assert set(seen.runs) == {"study", "0", "1", "2", "3", "popularity", "chance"}
    assert seen.points("3", "recall_at_1") == [(1, 0.25), (2, 0.35)]
    assert seen.points("0", "recall_at_1") == [(1, 0.3), (2, 0.41), (3, 0.35)]
    assert "leaderboard.csv" in seen.artifacts("study")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]  # no files where the search was started
    assert is_nowhere(PASSWORD, study, said, *capfd.readouterr())


def never_asked(act: str, *, trial: int | None, by: str) -> str:
    raise AssertionError(act)


def is_nowhere(secret: str, study: StudyFolder, said: list[str], *outputs: str) -> bool:
    """But in the file that its user alone may read."""
    kept = [path for path in study.path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert [(path.name, path.stat().st_mode & 0o077) for path in kept] == [("tracking_uri.json", 0)]
    return not any(secret in text for text in (*said, *outputs))


def wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
