"""Ray Tune's events → the study's folder, the live table, and the tracker: what happened, in that order."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ray import tune as ray_tune

from reranker.errors import EnvironmentFault
from results.study.study_folder import StudyFolder, TrialStatus
from tune.execution.failure_cause import SLOT_GONE, cluster_fault
from tune.mlflow_tracking.tracker import Tracker
from tune.searching.optuna_searcher import outcome
from tune.searching.stop_rules import StopRules
from tune.terminal.live_table import Progress


class SearchCallbacks(ray_tune.Callback):  # type: ignore[misc]
    """Writes each event to the folder first, so that nothing that is shown or tracked can be lost."""

    def __init__(
        self, folder: StudyFolder, progress: Progress, tracker: Tracker, stop_rules: StopRules, knobs: list[str]
    ) -> None:
        self._folder, self._progress, self._tracker, self._knobs = folder, progress, tracker, knobs
        self._stop_rules = stop_rules

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune's own snapshots, from which nothing is ever restored; threads and tables can't be pickled

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._stop_rules.poll()
        self._progress.tick()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number, values = trial.config["number"], trial.config["values"]
        self._progress.started(number, values, self._knobs, self._stop_rules.origin(number))
        self._tracker.nudge()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" in result:
            self._progress.reported(trial.config["number"], result)
            self._tracker.nudge()
        elif "training_status" in result:
            self._progress.training_status(trial.config["number"], result["training_status"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result
        if what := result.get("machine"):
            self._stop_rules.machine_failed(what)  # `close` marks the trial
        self._end(trial.config["number"], outcome(result), result.get("cause", ""), result.get("ours", False))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune lets go of a trial: a slot is gone, in which nothing of a trial runs."""
        self._stop_rules.machine_failed(cluster_fault() or SLOT_GONE)

    def close(self) -> None:
        """Mark what was still running when the search ended; what can't be marked is found by the next launch."""
        for number in self._folder.numbers():
            if self._folder.read_status(number)["status"] == TrialStatus.RUNNING:
                with suppress(EnvironmentFault):
                    self._end(number, TrialStatus.CANCELLED)

    def _end(self, number: int, status: TrialStatus, cause: str = "", ours: bool = False) -> None:
        self._folder.write_status(number, status, cause, ours)
        if status is not TrialStatus.CANCELLED:
            self._folder.trial(number).drop_state()
        self._progress.ended(number, status, cause)
        self._tracker.nudge()
