"""A search while it runs → its store brought up to the folder in a thread of its own, and once more at the end."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable

from mlflow.exceptions import MlflowException

from reranker.errors import EnvironmentFault, RerankerError
from results.study.study_folder import StudyFolder
from tune.mlflow_tracking.trials_to_runs import StudyMirror, cause_of_failure, quieten


class Tracker:
    """Mirrors the study in a thread while the search runs, so that a slow or absent store never holds it up.

    Attributes:
        say: told when the store begins to lack something, and when it has everything again.
        trouble: why the store does not have everything; empty when it does.
    """

    def __init__(self, study: StudyFolder, uri: str, say: Callable[[str], None] = lambda line: None) -> None:
        self._mirror = StudyMirror(study, uri)
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-mirror", daemon=True)
        self.say, self.trouble = say, ""

    @property
    def leaderboard_link(self) -> str:
        """Where MLflow's UI shows the leaderboard; empty while the study is not in the store."""
        return self._mirror.leaderboard_link

    def start(self) -> None:
        """Begin to bring MLflow up to the folder, in a thread of its own."""
        quieten()
        self._thread.start()

    def nudge(self) -> None:
        """Something new is in the folder."""
        self._wake.set()

    def finish(self, timeout_s: float = 60) -> bool:
        """Deliver the rest; False where the store would not have it (`trouble` says why)."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.trouble = self.trouble or f"the store did not answer within {timeout_s:.0f} s"
        return not self.trouble

    def _run(self) -> None:
        closed = False
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            ended = self._stop.is_set()
            closed = self._attempt(ended=ended) and ended
            time.sleep(0.2)  # several reports become one pass
        if not closed:
            self._attempt(ended=True)

    def _attempt(self, *, ended: bool) -> bool:
        try:
            self._mirror.bring_up(ended=ended)
        except Exception as error:  # noqa: BLE001, a search goes on, and its user learns that the store lacks something
            before, self.trouble = self.trouble, cause_of_failure(error)
            if not before:
                traceback.print_exc()
                self.say(f"MLflow does not have everything ({self.trouble}); the search goes on, and sends it again")
            return False
        if self.trouble:
            self.say("MLflow has everything again")
        self.trouble = ""
        return True


def deliver(study: StudyFolder, uri: str) -> str:
    """Bring the store of a search that is over up to its folder; why that could not be done, empty if it was."""
    try:
        StudyMirror(study, uri).bring_up(ended=True)
    except (RerankerError, MlflowException, OSError) as error:
        return cause_of_failure(error)
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
    except (MlflowException, OSError) as error:
        raise EnvironmentFault(f"MLflow does not take it: {cause_of_failure(error)}") from error
    return mirror
