"""Where a study is tracked: with a password for its user alone, and in no other file."""

from __future__ import annotations

import pytest

from reranker.data.assemble import RerankingData
from results.study.tracking_address import tracking_uri_of
from tune.launching.launch import begin_study
from tune.study_file.study import Study

STUDY = {
    "study": {"name": "films", "trials": 1, "baselines": "popularity"},
    "data": {"source": "demo", "users": 40},
    "fixed": {"model": "demo-tiny"},
    "space": {"epochs": {"int": [1, 2]}},
}


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:hunter2@mlflow.example/x", "https://***@mlflow.example/x"),
        ("postgresql://db/mlflow?user=me&password=hunter2", "postgresql://db/mlflow?user=me&password=***"),
    ],
)
def test_a_password_is_in_one_file_that_its_user_alone_may_read(tmp_path, uri, shown, monkeypatch):
    monkeypatch.setenv("RERANKER_TUNER_SHARE", "group")
    study = Study.load(STUDY)
    folder = begin_study(study, RerankingData.prepare(study.data).sealed(), tmp_path, tracking_uri=uri)
    assert folder.read_manifest()["tracking_uri"] == shown
    assert tracking_uri_of(folder) == uri
    holders = [path for path in folder.path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert [(path.name, path.stat().st_mode & 0o777) for path in holders] == [("tracking_uri.json", 0o600)]
    holders[0].unlink()
    assert tracking_uri_of(folder) == shown


def test_an_address_without_one_is_kept_as_it_is(tmp_path):
    study = Study.load(STUDY)
    uri = "http://127.0.0.1:5000"
    folder = begin_study(study, RerankingData.prepare(study.data).sealed(), tmp_path, tracking_uri=uri)
    assert tracking_uri_of(folder) == uri
    assert not (folder.path / "tracking_uri.json").exists()
