"""A study → the address of the MLflow store that it is tracked in. Knows no MLflow."""

from __future__ import annotations

from pathlib import Path

from results.study.study_folder import StudyFolder

_FILE = "mlflow.db"
_SQLITE = "sqlite:///"


def local_store(study: StudyFolder) -> str:
    """SQLite in the study's folder, absolute, since Ray changes the working folder."""
    return f"{_SQLITE}{study.path.resolve() / _FILE}"


def tracking_uri_of(study: StudyFolder) -> str:
    """The store that the study's manifest names, or where it names none the one in its folder, wherever that lies now."""
    uri = str(study.read_manifest()["tracking_uri"])
    return local_store(study) if not uri or _was_local(study, uri) else uri


def _was_local(study: StudyFolder, uri: str) -> bool:
    """Older manifests name the local store by the place where the folder was made."""
    path = Path(uri.removeprefix(_SQLITE))
    if not uri.startswith(_SQLITE) or path.name != _FILE:
        return False
    if (study.path / _FILE).exists():
        return True
    return path.parent.name in (study.name, study.path.name) and not path.parent.exists()
