"""A study → what Ray Tune needs to search it: the Optuna searcher, the ASHA scheduler, and the ledger between them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search.optuna import OptunaSearch

from results.study_folder import StudyFolder, TrialStatus
from tune.search_space import Study


class LedgerSearch(OptunaSearch):  # type: ignore[misc]
    """OptunaSearch whose storage, the study's journal, says truly what became of each trial.

    Ray's own tells Optuna that a trial stopped by ASHA is complete with a partial score and leaves out the report that
    it was stopped at. Here a trial's value is its best epoch, a stopped one is pruned with all its reports, and a failed
    one is failed. Steps are epochs. A suggestion is `{"number": the trial's number in the journal, "values": every knob}`.
    """

    def __init__(self, study: Study, folder: StudyFolder) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=ExperimentalWarning)  # of `group`, which is years old
        super().__init__(
            space=study.draw,
            metric=study.metric,
            mode=study.mode,
            sampler=make_sampler(study),
            study_name=folder.name,
            storage=JournalStorage(JournalFileBackend(str(folder.journal))),
            points_to_evaluate=None,
        )
        self._study = study
        self._epochs: dict[str, int] = {}  # that each trial is to train
        for point in study.start_points:
            self._ot_study.enqueue_trial(point, user_attrs={"start_from": True})

    def suggest(self, trial_id: str) -> dict[str, Any]:
        trial = self._ot_study.ask()
        values = self._study.draw(trial)
        self._ot_trials[trial_id], self._epochs[trial_id] = trial, values["epochs"]
        return {"number": trial.number, "values": values}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._ot_trials[trial_id].report(result[self.metric], result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self._ot_trials.pop(trial_id, None)
        if trial is None:
            return
        if error or not result or self.metric not in result:
            self._ot_study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        reports = self._ot_study.trials[trial.number].intermediate_values
        if result["epoch"] not in reports:  # of the report that a trial is stopped at, Optuna has not heard
            trial.report(result[self.metric], result["epoch"])
            reports = {**reports, result["epoch"]: result[self.metric]}
        if outcome(result["epoch"], self._epochs[trial_id]) is TrialStatus.COMPLETED:
            best = min(reports.values()) if self.mode == "min" else max(reports.values())
            self._ot_study.tell(trial, best)
        else:
            self._ot_study.tell(trial, state=optuna.trial.TrialState.PRUNED)


def outcome(epoch: int, epochs: int) -> TrialStatus:
    """A trial that ended before the last of its own epochs was stopped by the scheduler."""
    return TrialStatus.COMPLETED if epoch >= epochs else TrialStatus.PRUNED


def make_sampler(study: Study) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of the study's choice, seeded. TPE is multivariate, and grouped for conditional knobs."""
    if study.settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=study.settings.seed)
    if study.settings.sampler == "gp":
        return optuna.samplers.GPSampler(seed=study.settings.seed, deterministic_objective=False)
    if study.settings.sampler == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=study.settings.seed)
    startup = max(3, min(10, study.settings.trials // 4))
    return optuna.samplers.TPESampler(seed=study.settings.seed, multivariate=True, group=True, n_startup_trials=startup)


def make_scheduler(study: Study) -> AsyncHyperBandScheduler:
    """ASHA on the epoch that the trial reports, never on the count of reports.

    `max_t` lies beyond the last epoch: at `max_t` ASHA would kill a trial at its last report.
    """
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=study.metric,
        mode=study.mode,
        grace_period=study.settings.asha.grace,
        reduction_factor=study.settings.asha.reduction,
        max_t=study.max_epochs + 1,
        stop_last_trials=False,
    )


def rungs(study: Study) -> list[int]:
    """The epochs at which ASHA compares trials."""
    count = int(math.log((study.max_epochs + 1) / study.settings.asha.grace, study.settings.asha.reduction))
    marks = [round(study.settings.asha.grace * study.settings.asha.reduction**k) for k in range(count + 1)]
    return [mark for mark in marks if mark < study.max_epochs]
