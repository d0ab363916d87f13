"""A study → the Optuna searcher that Ray Tune asks for configurations, and the journal behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from ray.tune.search import Searcher

from reranker.report_figures import report_number
from results.study.stored_trial import TrialStatus
from tune.execution.failure_cause import SLOT_GONE
from tune.execution.trial_messages import Ending, TuneConfig, TuneResult
from tune.searching.optuna_private import SomeTrials
from tune.searching.replicates import Replication
from tune.searching.stop_rules import StopRules
from tune.searching.trial_index import TrialIndex
from tune.searching.trial_lifecycle import TrialLife
from tune.searching.trial_store import TrialStore
from tune.study_file.settings import StudySettings
from tune.study_file.study import Study

_GOOD, _LATEST = 25, 475  # trials that TPE knows; it never takes more than 25 for good ones


class OptunaSearcher(Searcher):  # type: ignore[misc]
    """Optuna's samplers behind Tune, whose journal says truly what became of each trial.

    Ray's own OptunaSearch tells Optuna that a trial stopped by ASHA is complete with a partial score and leaves out the
    report that it was stopped at. Here a trial's value is its best report, a stopped one is pruned with all reports,
    and a failed one is failed. Steps are reports. A suggestion is an `Assignment`, in the form that Tune takes:
    interrupted trials of an earlier launch come first, then those that wait, then new ones, and when all are done the
    replicates of the best, which alone begin once the search is out of patience.
    """

    def __init__(
        self,
        study: Study,
        trial_store: TrialStore,
        trial_life: TrialLife,
        stop_rules: StopRules,
        replication: Replication | None,
        room: Callable[[], int],
    ) -> None:
        """
        Args:
            room: how many trials may run at once.
        """
        super().__init__(metric=study.metric, mode=study.mode)
        self._study, self._trial_store, self._stop_rules = study, trial_store, stop_rules
        self._trial_life, self._replication, self._room = trial_life, replication, room
        if replication:
            replication.begin(trial_store)
        self._numbers: dict[str, int] = {}  # of the trials that Tune runs

    def suggest(self, trial_id: str) -> TuneConfig | str | None:
        """The next assignment; None while none may begin; FINISHED once there are no more."""
        self._stop_rules.poll()
        ending = self._stop_rules.ending
        if ending and not (self._replication and self._stop_rules.out_of_patience):
            return str(Searcher.FINISHED)
        if self._stop_rules.paused or len(self._numbers) >= self._room():
            return None
        going_on = self._trial_store.to_go_on_with(replicates_only=bool(ending))
        searched = bool(ending) or self._trial_store.asked() >= self._study.settings.trials
        if searched and not going_on:
            if self._numbers:
                return None  # while one runs, another may yet be added
            if not (self._replication and self._replication.enqueue(self._trial_store)):
                return str(Searcher.FINISHED)
            going_on = self._trial_store.to_go_on_with(replicates_only=True)
        assignment, origin = self._trial_life.begin(going_on[0] if going_on else None)
        self._numbers[trial_id] = assignment.number
        self._stop_rules.starts(assignment, origin)
        return assignment.as_tune_config

    def on_trial_result(self, trial_id: str, result: TuneResult) -> None:
        """Take a report's metric into the journal."""
        if self.metric in result:
            self._trial_life.report(self._numbers[trial_id], report_number(result), result[self.metric])

    def on_trial_complete(self, trial_id: str, result: TuneResult | None = None, error: bool = False) -> None:
        """Take how the trial ended into the journal and the folder."""
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return
        # With `error` the slot's own process is gone, in which nothing of the trial runs: it goes on another time.
        ending = Ending(TrialStatus.CANCELLED, machine=SLOT_GONE) if error or not result else Ending.of(result)
        last = (report_number(result), result[self.metric]) if result and self.metric in result else None
        self._trial_life.end(number, ending, last)
        self._stop_rules.ended(number, ending.status)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune's own snapshots, which are not what a study is resumed from

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Refused: a study is resumed from its journal."""
        raise NotImplementedError("a study is resumed from its journal")


def make_sampler(
    study: Study, number: int, trials: TrialIndex | None = None, *, at_random: bool = False
) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of the study's choice for one trial. TPE is multivariate, and grouped for conditional knobs.

    TPE looks at each trial that it knows with every draw, and with thousands it would take longer than all else that a
    trial costs. So it knows the best ones, which are all that it takes for good ones, and the latest.

    Made anew for each trial and seeded with its number, so that a draw depends on the finished trials and nothing else:
    a search that was killed and resumed draws what an undisturbed one draws.

    Args:
        at_random: whatever the study's choice is.
    """
    settings = study.settings.model_copy(update={"sampler": "random"}) if at_random else study.settings
    return _OwnDraws(settings, number, trials)


class _OwnDraws(optuna.samplers.BaseSampler):  # type: ignore[misc]
    """One trial's sampler, in which each knob that is drawn by itself has a seed by its name.

    So it makes no difference which of them an earlier launch has drawn before it was killed.
    """

    def __init__(self, settings: StudySettings, number: int, trials: TrialIndex | None) -> None:
        self._settings, self._number, self._trials = settings, number, trials
        self._together = self._make("")
        self._known: Any = None  # the study as the sampler sees it, from its first question on

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        space: dict[str, Any] = self._together.infer_relative_search_space(self._known_of(study), trial)
        return space

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        drawn: dict[str, Any] = self._together.sample_relative(self._known_of(study), trial, search_space)
        return drawn

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        sampler = self._make(param_name)
        return sampler.sample_independent(self._known_of(study), trial, param_name, param_distribution)

    def before_trial(self, study: Any, trial: Any) -> None:
        self._together.before_trial(study, trial)

    def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
        self._together.after_trial(study, trial, state, values)

    def _known_of(self, study: Any) -> Any:
        if self._known is None:
            some = None
            if self._trials is not None and self._settings.sampler == "tpe":
                some = self._trials.best_and_latest(_GOOD, _LATEST)
            self._known = study if some is None else SomeTrials(study, some)
        return self._known

    def _make(self, knob: str) -> optuna.samplers.BaseSampler:
        entropy = [self._settings.seed, self._number, *knob.encode()]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        kind = self._settings.sampler
        if kind in ("random", "grid"):
            return optuna.samplers.RandomSampler(seed=seed)
        if kind == "gp":
            return optuna.samplers.GPSampler(seed=seed, deterministic_objective=False)
        if kind == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed)
        startup = max(3, min(10, self._settings.trials // 4))
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=startup)
