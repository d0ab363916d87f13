"""A study → the URI of its MLflow store. Does not import MLflow.

A URI that holds a password stands in the manifest without it, and in full in a file that its user alone may read.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from reranker.command_line.redaction import HIDDEN, masked
from reranker.storage.atomic_files import DamagedFile, read_json, write_json
from results.study.study_folder import StudyFolder

_FILE = "mlflow.db"
_SECRET = "tracking_uri.json"
_SQLITE = "sqlite:///"


def local_store(study: StudyFolder) -> str:
    """The URI of the SQLite file that a study is tracked in where no other store is named.

    It is the one beside the study's folder, which all studies there share, or the one in the folder, which older studies
    have. Absolute, since Ray changes the working directory.
    """
    return f"{_SQLITE}{local_file(study)}"


def local_file(study: StudyFolder) -> Path:
    """The file of `local_store`."""
    folder = study.path.resolve()
    own = folder / _FILE
    return own if own.exists() else folder.parent / _FILE


def keep_secret_uri(study: StudyFolder, uri: str) -> None:
    """Keep a URI that holds a secret, for `tracking_uri_of`; any other is in the manifest."""
    if masked(uri) != uri:
        write_json(study.path / _SECRET, {"tracking_uri": uri}, secret=True)


def tracking_uri_of(study: StudyFolder) -> str:
    """The store in the study's manifest; if it names none, the local one at the study's present place. In a copy of a
    study without the file of `keep_secret_uri`, its password is lacking."""
    uri = str(study.read_manifest()["tracking_uri"])
    if masked(uri) == uri and HIDDEN in uri:
        with contextlib.suppress(DamagedFile):
            return str(read_json(study.path / _SECRET, {"tracking_uri": str})["tracking_uri"])
    return local_store(study) if not uri or _was_local(study, uri) else uri


def _was_local(study: StudyFolder, uri: str) -> bool:
    """Whether this is the store in the study's folder. Older manifests have its path when the folder was made."""
    path = Path(uri.removeprefix(_SQLITE))
    if not uri.startswith(_SQLITE) or path.name != _FILE:
        return False
    if (study.path / _FILE).exists():
        return True
    return path.parent.name in (study.name, study.path.name) and not path.parent.exists()
