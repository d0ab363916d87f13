"""A study's own MLflow store whose folder was moved or copied → the same store, with the new places of its
artifacts."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from reranker.errors import EnvironmentFault
from results.study.study_folder import StudyFolder

ARTIFACTS = "mlartifacts"
_PLACES = {  # where MLflow keeps absolute addresses of artifacts
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


def artifacts_of(study: StudyFolder) -> str:
    """Address of the folder in which a study's own store keeps artifacts."""
    return (study.path.resolve() / ARTIFACTS).as_uri()


def follow(study: StudyFolder) -> int:
    """Have the store in a study's folder point to that folder; how many addresses were changed, 0 where none had to be.

    Only addresses in the folder that the study's experiment was made with are touched, all in one transaction.

    Raises:
        EnvironmentFault: the store cannot be read or written; it is as it was.
    """
    store = study.path / "mlflow.db"
    if not store.exists():
        return 0
    try:
        with closing(sqlite3.connect(store, timeout=30, isolation_level=None)) as connection:
            return _follow(connection, study)
    except sqlite3.Error as error:
        raise EnvironmentFault(f"{store} could not be brought to where its study lies now: {error}") from error


def _follow(connection: sqlite3.Connection, study: StudyFolder) -> int:
    if not _columns(connection, "experiments"):
        return 0
    now, changed = artifacts_of(study), 0
    locations = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    former = [place for (place,) in locations if place and place != now and _is_ours(place)]
    if not former:
        return 0
    connection.execute("BEGIN IMMEDIATE")
    try:
        for before in former:
            for table, columns in _PLACES.items():
                for column in [name for name in columns if name in _columns(connection, table)]:
                    # Compared as text, since LIKE would take what a name may hold for a pattern.
                    changed += connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
                    ).rowcount
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return changed


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


def _is_ours(place: str) -> bool:
    """Whether a study's mirror has made an experiment with this place; a store elsewhere is nobody's to move."""
    address = urlsplit(place)
    return address.scheme == "file" and Path(address.path).name == ARTIFACTS
