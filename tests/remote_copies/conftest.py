from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from results.study.study_folder import READINGS_BEGUN, StudyFolder
from tests.object_store import BUCKET, ObjectStore, object_store
from tests.stored import keep_journal
from tests.tracked import make_study
from tune.remote_copies.remote_folder import RemoteFolder


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("seaweedfs")) as running:
        yield running


@pytest.fixture
def s3(store, monkeypatch) -> ObjectStore:
    for name, value in store.variables.items():
        monkeypatch.setenv(name, value)
    return store


@pytest.fixture(params=["file", "s3"])
def place(request, tmp_path) -> RemoteFolder:
    """Where copies are kept: another folder, and a bucket of a real S3 server."""
    if request.param == "file":
        return RemoteFolder.at(f"file://{tmp_path}/copies")
    request.getfixturevalue("s3")
    return RemoteFolder.at(f"s3://{BUCKET}/{tmp_path.name}")


@pytest.fixture
def study(tmp_path) -> StudyFolder:
    """Three trials: one whose middle epoch is the best, one stopped, one failed before its first epoch."""
    study = make_study(tmp_path / "runs", "")
    text = study.study_file.read_text().rpartition("# checksum")[0]
    study.write_manifest(study.read_manifest() | {"format": READINGS_BEGUN, "study": text})
    study.begin_readings()
    return keep_journal(study)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
