"""A search while it runs → its MLflow store brought up to the folder in a thread of its own, and once more at the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from reranker.errors import EnvironmentFault, RerankerError
from results.study.study_folder import StudyFolder
from tune.mirroring.mirror_thread import MirrorThread, cause_of_failure
from tune.mlflow_tracking.control_tags import Ask
from tune.mlflow_tracking.trials_to_runs import StudyMirror, quieten

_STORE_FAULTS = (MlflowException, OSError, SQLAlchemyError)  # the last of a file that is no database, or damaged


class Tracker(MirrorThread):
    """MLflow's `MirrorThread`, which also hears what is asked in its pages.

    Args:
        ask: hands the search what was asked of it by tags in MLflow's pages; None: nobody looks.
    """

    def __init__(
        self,
        study: StudyFolder,
        uri: str,
        say: Callable[[str], None] = lambda line: None,
        ask: Ask | None = None,
    ) -> None:
        self._store, self._ask = StudyMirror(study, uri), ask
        listen = None if ask is None else self._obey
        super().__init__("MLflow", self._store, say, listen=listen, told_by=(MlflowException,))

    @property
    def leaderboard_link(self) -> str:
        """Where MLflow's UI shows the leaderboard; empty while the study is not in the store."""
        return self._store.leaderboard_link

    def start(self) -> None:
        """Begin to bring MLflow up to the folder, in a thread of its own."""
        quieten()
        super().start()

    def _obey(self) -> None:
        assert self._ask is not None
        with suppress(Exception):  # whatever a driver raises: a store that is down is told of by the next delivery
            self._store.obey(self._ask)


def deliver(study: StudyFolder, uri: str) -> str:
    """Bring the store of a search that is over up to its folder; why that could not be done, empty if it was."""
    try:
        StudyMirror(study, uri).bring_up(ended=True)
    except (RerankerError, *_STORE_FAULTS) as error:
        return cause_of_failure(error, (MlflowException,))
    return ""


def brought_up(study: StudyFolder, uri: str) -> StudyMirror:
    """The mirror of a search that is over, its store brought up to its folder.

    Raises:
        EnvironmentFault: the store is not there, or does not take it.
    """
    quieten()
    mirror = StudyMirror(study, uri)
    try:
        mirror.bring_up(ended=True)
    except EnvironmentFault:
        raise
    except _STORE_FAULTS as error:
        why = cause_of_failure(error, (MlflowException,))
        raise EnvironmentFault(f"MLflow does not take it: {why}") from error
    return mirror
