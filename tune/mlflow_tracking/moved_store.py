"""A local MLflow store that was moved or copied with its studies → the same store, with the new places of its
artifacts."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from reranker.errors import EnvironmentFault
from results.study.study_folder import StudyFolder
from results.study.tracking_address import local_file

ARTIFACTS = "mlartifacts"
_PLACES = {  # where MLflow keeps absolute addresses of artifacts
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


def artifacts_of(study: StudyFolder) -> str:
    """Address of the folder in which a study's local store keeps artifacts."""
    return (local_file(study).parent / ARTIFACTS).as_uri()


def follow(study: StudyFolder) -> int:
    """Have a study's local store point to the folder that it lies in; how many addresses were changed.

    Only addresses in the folder that the experiments were made with are touched, all in one transaction.

    Raises:
        EnvironmentFault: the store cannot be read or written; it is as it was.
    """
    store = local_file(study)
    if not store.exists():
        return 0
    try:
        with closing(sqlite3.connect(store, timeout=30, isolation_level=None)) as connection:
            return _follow(connection, study)
    except sqlite3.Error as error:
        raise EnvironmentFault(f"{store} could not be updated to where its studies are now: {error}") from error


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
