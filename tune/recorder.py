"""Ray Tune's events → the study's folder, the live table, and the tracker: what happened, in that order."""

from __future__ import annotations

import contextlib
from typing import Any

from ray import tune as ray_tune
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup

from results.study_folder import StudyFolder, TrialStatus
from tune.progress import Progress
from tune.searcher import outcome
from tune.tracking import Tracker

import ray  # isort: skip


class Recorder(ray_tune.Callback):  # type: ignore[misc]
    """Writes each event to the folder first, so that nothing that is shown or tracked can be lost."""

    def __init__(self, folder: StudyFolder, progress: Progress, tracker: Tracker, knobs: list[str]) -> None:
        self._folder, self._progress, self._tracker, self._knobs = folder, progress, tracker, knobs

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune's own snapshots, from which nothing is ever restored; threads and tables can't be pickled

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number, values = trial.config["number"], trial.config["values"]
        self._folder.start_trial(number, values)
        self._progress.started(number, values, self._knobs)
        self._tracker.nudge()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._progress.reported(trial.config["number"], result)
        self._tracker.nudge()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number, result = trial.config["number"], trial.last_result
        _release(result.get("placement_group"))
        if "epoch" not in result:
            self._end(number, TrialStatus.FAILED, "it ended without a report")
        else:
            self._end(number, outcome(result["epoch"], trial.config["values"]["epochs"]))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        _release(trial.last_result.get("placement_group"))
        known = self._folder.read_status(number)
        if known["status"] != TrialStatus.FAILED:
            self._folder.write_status(number, TrialStatus.FAILED, "its process died; see Ray's logs", ours=True)
            known = self._folder.read_status(number)
        self._progress.ended(number, TrialStatus.FAILED, known["cause"])
        self._tracker.nudge()

    def close(self) -> None:
        """Mark what was still running when the search ended."""
        for number in self._folder.numbers():
            if self._folder.read_status(number)["status"] == TrialStatus.RUNNING:
                self._end(number, TrialStatus.CANCELLED)

    def _end(self, number: int, status: TrialStatus, cause: str = "") -> None:
        self._folder.write_status(number, status, cause)
        self._progress.ended(number, status, cause)
        self._tracker.nudge()


def _release(placement_group: str | None) -> None:
    """Give the workers' reservation back where Ray Train's own cleaner cannot (two Rays on one host, no dashboard)."""
    if placement_group:
        with contextlib.suppress(Exception):  # already gone is what it should be
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(placement_group))))
