"""Ray Tune's events → the live table, the gauges and the trackers. By then the journal and the folder know
(`tune.searching.trial_lifecycle`)."""

from __future__ import annotations

from typing import Any

from ray import tune as ray_tune

from results.study.stored_trial import TrialStatus
from tune.execution.failure_cause import SLOT_GONE, cluster_fault
from tune.execution.search_gauges import SearchGauges
from tune.execution.trial_messages import Assignment, Ending, TuneResult
from tune.mirroring.mirror_thread import Trackers
from tune.searching.stop_rules import StopRules
from tune.searching.trial_lifecycle import TrialLife
from tune.terminal.live_table import Progress


class SearchCallbacks(ray_tune.Callback):  # type: ignore[misc]
    """Tune tells its searcher first, so that nothing that is shown or tracked can be lost."""

    def __init__(
        self,
        trial_life: TrialLife,
        progress: Progress,
        gauges: SearchGauges,
        trackers: Trackers,
        stop_rules: StopRules,
        knobs: list[str],
    ) -> None:
        self._trial_life, self._progress, self._gauges, self._trackers = trial_life, progress, gauges, trackers
        self._stop_rules, self._knobs = stop_rules, knobs

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune's own snapshots, from which nothing is ever restored; threads and tables can't be pickled

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look at requests and limits, and keep the live table going."""
        self._stop_rules.poll()
        self._progress.tick()
        self._gauges.tick()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show the trial that begins."""
        assignment = Assignment.of(trial.config)
        self._progress.started(assignment, self._knobs, self._stop_rules.origin(assignment.number))
        self._gauges.started(assignment)
        self._trackers.nudge()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: TuneResult, **info: Any) -> None:
        """Show a report's figures, or what the trial is doing."""
        number = Assignment.of(trial.config).number
        if "epoch" in result:
            self._progress.reported(number, result)
            self._gauges.reported(number, result)
            self._trackers.nudge()
        elif "training_status" in result:
            self._progress.training_status(number, result["training_status"])
            self._gauges.training_status(number, result["training_status"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Show how the trial ended; a fault of the machine ends the search."""
        ending = Ending.of(trial.last_result)
        if ending.machine:
            self._stop_rules.machine_failed(ending.machine)  # `close` tells of the trial
        self._show_end(Assignment.of(trial.config).number, ending)
        for averages in (trial.run_metadata.metric_analysis, trial.run_metadata.metric_n_steps):
            averages.clear()  # Tune's own, of each figure: 40 KB a trial, which nobody reads

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune lets go of a trial: a slot is gone, in which nothing of a trial runs."""
        self._stop_rules.machine_failed(cluster_fault() or SLOT_GONE)

    def close(self) -> None:
        """Tell the end of what was still running when the search ended."""
        for number in self._trial_life.cut_off():
            self._show_end(number, Ending(TrialStatus.CANCELLED))

    def _show_end(self, number: int, ending: Ending) -> None:
        self._progress.ended(number, ending.status, ending.cause)
        self._gauges.ended(number, ending.status)
        self._trackers.nudge()
