"""A trial begins, reports and ends: the one place that tells Optuna's journal and the study's folder of it, in this
order.

    what happens         journal                  folder                    a kill in between leaves it is asked for
    RUNNING, its knobs       status "running"          RUNNING without a folder: it is asked for again an epoch ends
    the metric               figures (by its worker)   figures without a report: they are replayed it has to end
    how, and why             -                         RUNNING, decided: `reconcile` ends it it has ended
    COMPLETE, PRUNED, FAIL   its status and cause      "running" in the folder: `reconcile` writes it

MLflow follows the folder (`tune.mlflow_tracking`), so it is told of nothing that could be lost.
"""

from __future__ import annotations

from reranker.errors import EnvironmentFault
from reranker.report_figures import report_number
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from results.study.trial_origin import Origin
from tune.execution.trial_messages import Assignment, Ending
from tune.searching.trial_store import TrialStore

_FINAL = (TrialStatus.COMPLETED, TrialStatus.PRUNED, TrialStatus.FAILED)


class TrialLife:
    """For the one process that searches."""

    def __init__(self, trial_store: TrialStore, folder: StudyFolder, metric: str) -> None:
        self._trial_store, self._folder, self._metric = trial_store, folder, metric

    def begin(self, number: int | None = None) -> tuple[Assignment, Origin]:
        """An interrupted or a waiting trial, or the next one, before Tune knows of it."""
        assignment, origin = self._trial_store.ask(number)
        self._folder.start_trial(assignment.number, assignment.config, origin)
        return assignment, origin

    def report(self, number: int, report: int, value: float) -> None:
        """The study's metric at a report, whose figures the folder has already."""
        self._trial_store.report(number, report, value)

    def end(self, number: int, ending: Ending, last: tuple[int, float] | None = None) -> None:
        """
        Args:
            last: number and metric of the report that it ended with, of which nobody may have heard yet.
        """
        if ending.status is not TrialStatus.CANCELLED:
            self._trial_store.decide(number, ending.status, ending.cause, ending.ours)
        if last is not None:
            self._trial_store.report(number, *last)
        self._trial_store.end(number, ending.status)
        if ending.machine:  # perhaps the folder can't be written; `cut_off` marks what still runs
            return
        self._folder.write_status(number, ending.status, ending.cause, ending.ours)
        if ending.status is not TrialStatus.CANCELLED:
            self._folder.trial(number).drop_state()

    def cut_off(self) -> list[int]:
        """Mark what was still running when the search ended; what can't be marked is found by the next launch."""
        cut_off = []
        for number in self._folder.running():
            try:
                self._folder.write_status(number, TrialStatus.CANCELLED)
            except EnvironmentFault:
                continue
            cut_off.append(number)
        return cut_off

    def reconcile(self) -> None:
        """Make journal and folder agree after a kill between two writes."""
        for number in self._folder.numbers():
            status = TrialStatus(self._folder.read_status(number)["status"])
            ending = self._trial_store.decided(number) or Ending(status)
            if self._trial_store.runs(number) and ending.status in _FINAL:
                self._trial_store.ask(number)
                for figures in self._folder.trial(number).read_reports():
                    self._trial_store.report(number, report_number(figures), figures[self._metric])
                self._trial_store.end(number, ending.status)
            if not self._trial_store.runs(number) and ending.status in _FINAL and status not in _FINAL:
                self._folder.write_status(number, ending.status, ending.cause, ending.ours)
