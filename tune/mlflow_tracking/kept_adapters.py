"""The adapters that MLflow has a copy of: the winners'."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from reranker.errors import EnvironmentFault
from results.study.study_folder import StudyFolder
from results.study.tracking_address import local_file, local_store, tracking_uri_of
from tune.mlflow_tracking import moved_store
from tune.mlflow_tracking.mlflow_pages import PARENT
from tune.mlflow_tracking.trials_to_runs import quieten

_ADAPTER = "adapter"  # among the artifacts of a trial's run
_ANSWERS_S = 5.0
_PORTS = {"http": 80, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def fetch(study: StudyFolder, number: int, into: Path) -> Path | None:
    """Copy the adapter of a trial from the study's store; None where the store is away, or has none of it.

    Args:
        into: an empty folder.
    """
    uri = tracking_uri_of(study)
    is_local = uri == local_store(study)
    if not (local_file(study).exists() if is_local else _answers(uri)):
        return None
    quieten()
    with suppress(EnvironmentFault, MlflowException, SQLAlchemyError, OSError):
        if is_local:
            moved_store.follow(study)
        client = MlflowClient(tracking_uri=uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        of_study = f"tags.kind = 'study' and tags.study_id = '{study.read_manifest()['study_id']}'"
        for parent in client.search_runs(experiments, of_study):
            of_trial = f"tags.{PARENT} = '{parent.info.run_id}' and tags.kind = 'trial' and tags.trial = '{number}'"
            for run in client.search_runs(experiments, of_trial):
                if client.list_artifacts(run.info.run_id, _ADAPTER):
                    return Path(client.download_artifacts(run.info.run_id, _ADAPTER, str(into)))
    return None


def _answers(uri: str) -> bool:
    """Whether a server is there; MLflow's own client, and SQLAlchemy in it, would try for minutes."""
    parts = urlsplit(uri)
    try:
        if parts.hostname:
            port = parts.port or _PORTS.get(parts.scheme.partition("+")[0], 443)
            socket.create_connection((parts.hostname, port), timeout=_ANSWERS_S).close()
    except (OSError, ValueError):
        return False
    return True
