"""A study → the URI of its MLflow store. Does not import MLflow."""

from __future__ import annotations

from pathlib import Path

from results.study.study_folder import StudyFolder

_FILE = "mlflow.db"
_SQLITE = "sqlite:///"


def local_store(study: StudyFolder) -> str:
    """The URI of SQLite in the study's folder; absolute, since Ray changes the working directory."""
    return f"{_SQLITE}{study.path.resolve() / _FILE}"


def tracking_uri_of(study: StudyFolder) -> str:
    """The store in the study's manifest; if it names none, the one in the study's folder at its present place."""
    uri = str(study.read_manifest()["tracking_uri"])
    return local_store(study) if not uri or _was_local(study, uri) else uri


def _was_local(study: StudyFolder, uri: str) -> bool:
    """Whether this is the study's local store. Older manifests store its path at the time the folder was made."""
    path = Path(uri.removeprefix(_SQLITE))
    if not uri.startswith(_SQLITE) or path.name != _FILE:
        return False
    if (study.path / _FILE).exists():
        return True
    return path.parent.name in (study.name, study.path.name) and not path.parent.exists()
