"""Optuna's journal in a study's folder: the one record of what was tried, from which every launch goes on.

A trial is RUNNING in the journal from the moment it is asked for until it is complete, pruned or failed. So what a
launch finds running there is what an earlier one was kept from finishing, and has to go on. Nothing else is needed to
resume: draws depend on the seed, the trial's number and the finished trials only
    (`tune.searching.optuna_searcher.make_sampler`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState
from pydantic import ValidationError

from reranker.artifacts.trial_folder import config_digest
from reranker.command_line.redaction import masked
from reranker.config import TrialConfig, validation_faults
from reranker.errors import EnvironmentFault
from reranker.metrics import summarise
from reranker.report_figures import epoch_of, report_number
from reranker.training.report_plan import part_size
from results.study.journal_file import storage
from results.study.optuna_journal import (
    BROKEN_RULE,
    CONFIG,
    ENDS,
    ORIGIN,
    baseline_attribute,
    is_passed_over,
    origin_of,
    repair,
)
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder
from results.study.trial_origin import DRAWN, Origin, OriginKind
from tune.execution.trial_messages import Assignment, Ending, TuneConfig
from tune.searching.optuna_private import enqueued_parameters, go_on_with, is_enqueued, trial_of
from tune.searching.trial_index import EXTRA, TrialIndex
from tune.study_file.distributions import Parameters
from tune.study_file.study import Study

_SEED = "seed"  # the attribute of replicates, which takes the place of the configuration's
_INSTEAD_OF = "instead_of"  # the attribute of what is drawn for a draw that was passed over: its number

_TOLD = {
    TrialState.COMPLETE: TrialStatus.COMPLETED,
    TrialState.PRUNED: TrialStatus.PRUNED,
    TrialState.FAIL: TrialStatus.FAILED,
}


@dataclass(frozen=True, eq=False)
class PastTrial:
    """A trial that has ended, as schedulers know trials: `config` holds its assignment."""

    trial_id: str
    config: TuneConfig


class TrialStore:
    """Asks and tells, and tells apart what is finished, running and waiting. For one process at a time.

    Attributes:
        passed_over: draws that no trial was made of and that nobody was told of yet, in sentences.

    Args:
        make_sampler: from a trial's number, the index, and `at_random`, as `optuna_searcher.make_sampler`.

    Raises:
        EnvironmentFault: the journal is not one.
    """

    def __init__(
        self, study: Study, folder: StudyFolder, make_sampler: Callable[..., optuna.samplers.BaseSampler]
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=ExperimentalWarning)  # of TPE's `group`, which is years old
        self._study, self._folder, self._make_sampler = study, folder, make_sampler
        repair(folder.journal)
        try:
            journal = storage(folder.journal)
            self._optuna = optuna.create_study(
                study_name=next(iter(optuna.get_all_study_names(journal)), folder.name),
                storage=journal,
                direction="minimize" if study.mode == "min" else "maximize",
                sampler=make_sampler(0, None),
                load_if_exists=True,
            )
        except (ValueError, KeyError) as error:
            raise EnvironmentFault(f"{folder.journal} is not a journal that Optuna can read: {error}") from error
        self._index = TrialIndex(self._optuna)
        self.passed_over: list[str] = []
        self._trials: dict[int, optuna.Trial] = {}  # that run in this process
        self._remembered = set(self._optuna.user_attrs)

    def enqueue(self, parameters: Parameters, origin: Origin, *, extra: bool = False) -> None:
        """Have these parameters tried next; what they leave out is drawn."""
        self._optuna.enqueue_trial(parameters, user_attrs={ORIGIN: str(origin), EXTRA: extra})

    def enqueue_first(self) -> None:
        """The configurations to start from and those of a grid, but for what an earlier launch has enqueued."""
        points = [(point, Origin(OriginKind.START_FROM)) for point in self._study.start_points]
        if self._study.settings.sampler == "grid":
            points += [(point, DRAWN) for point in self._study.grid() if point not in self._study.start_points]
        trials = self._index.all()
        enqueued = sum(is_enqueued(t) and not t.user_attrs.get(EXTRA) for t in trials)
        for point, origin in points[enqueued:]:
            self.enqueue(point, origin)

    def interrupted(self) -> list[int]:
        """Trials of earlier launches that have to go on."""
        return [t.number for t in self._in_state(TrialState.RUNNING) if t.number not in self._trials]

    def to_go_on_with(self, *, replicates_only: bool = False) -> list[int]:
        """What comes before any new trial: those that were interrupted, then those that wait."""
        waiting = [trial.number for trial in self._in_state(TrialState.WAITING)]
        numbers = [*self.interrupted(), *waiting]
        return [number for number in numbers if self.is_replicate(number)] if replicates_only else numbers

    def left(self) -> list[int]:
        """Trials that have not ended: what to go on with, and what this launch has begun."""
        return [trial.number for trial in self._in_state(TrialState.RUNNING) + self._in_state(TrialState.WAITING)]

    def ended(self) -> list[tuple[int, TrialStatus]]:
        """This study's own trials that are complete, pruned or failed, in the order in which they ended."""
        trials = [trial for state in _TOLD for trial in self._in_state(state)]
        ours = [trial for trial in trials if origin_of(trial).kind is not OriginKind.WARM_START]
        return [(trial.number, _TOLD[trial.state]) for trial in sorted(ours, key=_order)]

    def failures(self) -> int:
        """Failed trials, but for those that were asked for again."""
        return sum(not self._is_retried(trial) for trial in self._in_state(TrialState.FAIL))

    def best(self) -> tuple[int, float] | None:
        """(number, value) of the best trial; None before the first has ended that has a report."""
        sign = -1 if self._study.mode == "min" else 1
        values = [(number, value) for number, _ in self.ended() if (value := self._value(number)) is not None]
        return max(values, key=lambda best: sign * best[1], default=None)

    def past(self) -> list[PastTrial]:
        """What a new scheduler has to know of earlier launches, which is what the old one knew."""
        past = []
        for number, _ in self.ended():
            config = self._study.draw(optuna.trial.FixedTrial(self._trial(number).params))
            past.append(PastTrial(f"past-{number}", self._assignment(number, config).as_tune_config))
        return past

    def _assignment(self, number: int, config: TrialConfig) -> Assignment:
        per_epoch = self._study.reports_per_epoch
        reports = tuple((epoch_of(report, per_epoch), value) for report, value in sorted(self._reports(number).items()))
        return Assignment(number, config, to_the_end=self.is_replicate(number), reports=reports)

    def asked(self) -> int:
        """How many trials of the study's own number were asked for, or wait to be."""
        return self._index.asked()

    def waiting(self) -> int:
        """How many trials are enqueued."""
        return len(self._in_state(TrialState.WAITING))

    def ask(self, number: int | None = None) -> tuple[Assignment, Origin]:
        """An interrupted or a waiting trial, or the next one: enqueued, else drawn.

        What was drawn may break a rule among knobs that the check of the study did not meet. Then it is passed over, and
        drawn once more under the next number, at random, since a sampler knows nothing of rules and may go on with it.
        """
        while True:
            trial = self._next(number)
            try:
                config = self._study.draw(trial)
                break
            except ValidationError as error:
                self._pass_over(trial, "; ".join(fault.rule for fault in validation_faults(error, TrialConfig)))
                number = None
        if (seed := trial.user_attrs.get(_SEED)) is not None:
            config = config.model_copy(update={"seed": seed})
        own = self._folder.trial(trial.number)
        digest = own.config_digest() if own.has_config(config) else config_digest(config.model_dump(mode="json"))
        if trial.user_attrs.get(CONFIG) != digest:
            trial.set_user_attr(CONFIG, digest)
        self._trials[trial.number] = trial
        return self._assignment(trial.number, config), self.origin(trial.number)

    def _next(self, number: int | None) -> optuna.Trial:
        waiting = [trial.number for trial in self._in_state(TrialState.WAITING)]
        trials = self._index.all()
        chosen = min(waiting, default=len(trials)) if number is None else number
        again = chosen < len(trials) and _INSTEAD_OF in trials[chosen].user_attrs
        self._optuna.sampler = self._make_sampler(chosen, self._index, at_random=again)
        return self._optuna.ask() if number is None else go_on_with(self._optuna, self._trial(number))

    def _pass_over(self, trial: optuna.Trial, rule: str) -> None:
        """End a draw that is no trial, and have what was not given of it drawn again."""
        given = enqueued_parameters(self._trial(trial.number))
        if given.keys() < trial.params.keys() and not any(
            later.user_attrs.get(_INSTEAD_OF) == trial.number for later in self._index.all()[trial.number + 1 :]
        ):
            attributes = {**_lasting(trial), EXTRA: True, _INSTEAD_OF: trial.number}
            self._optuna.enqueue_trial(given, user_attrs=attributes)
        trial.set_user_attr(BROKEN_RULE, rule)
        self._optuna.tell(trial, state=TrialState.FAIL)
        self.passed_over.append(f"draw {trial.number} is no trial, for it breaks a rule among knobs: {rule}")

    def report(self, number: int, report: int, value: float) -> None:
        """Reports that the journal knows are left as they are. What was scored as a baseline by then it remembers as
        well."""
        if report not in self._reports(number):
            self._trials[number].report(value, report)
        for name in self._folder.baselines():
            if (attribute := baseline_attribute(name)) not in self._remembered:
                self._optuna.set_user_attr(attribute, summarise(self._folder.baseline(name).read_ranks()[1]))
                self._remembered.add(attribute)

    def decide(self, number: int, status: TrialStatus, cause: str = "", ours: bool = False) -> None:
        """Write down how a trial shall end, so that a kill before `end`, or before the folder knows, leaves no
        doubt."""
        if ENDS not in self._trial(number).user_attrs:
            self._trials[number].set_user_attr(ENDS, [status.value, self._index.own_ended(), masked(cause), ours])

    def end(self, number: int, status: TrialStatus) -> None:
        """A complete trial's value is its best report. A cancelled one stays as it is, to go on another time."""
        if status is not TrialStatus.CANCELLED:
            self.decide(number, status)
        trial = self._trials.pop(number)
        if status is TrialStatus.COMPLETED:
            self._optuna.tell(trial, self._value(number))
        elif status is not TrialStatus.CANCELLED:
            state = TrialState.FAIL if status is TrialStatus.FAILED else TrialState.PRUNED
            self._optuna.tell(trial, state=state)

    def runs(self, number: int) -> bool:
        """Whether it has begun and not ended."""
        return self._trial(number).state is TrialState.RUNNING

    def decided(self, number: int) -> Ending | None:
        """How the trial has ended or shall end; None where nothing says so."""
        trial = self._trial(number)
        if ENDS in trial.user_attrs:
            status, _, cause, ours = trial.user_attrs[ENDS]
            return Ending(TrialStatus(status), cause, ours)
        return Ending(_TOLD[trial.state]) if trial.state in _TOLD else None

    def retry_failed(self) -> list[int]:
        """Enqueue every failed trial's parameters again, once; returns the failed numbers."""
        retried = []
        for trial in self._in_state(TrialState.FAIL):
            if not self._is_retried(trial):
                self._optuna.enqueue_trial(trial.params, user_attrs=_of_retry(trial))
                retried.append(trial.number)
        return retried

    def _is_retried(self, trial: Any) -> bool:
        later = self._index.all()[trial.number + 1 :]
        return any(_lasting(other) == _of_retry(trial) for other in later)

    def replicate(self, original: StoredTrial, seeds: int) -> int:
        """Enqueue a trial's parameters with the next `seeds` seeds, but for those that were asked for; how many are
        new."""
        origin = Origin(OriginKind.REPLICATE, original.number)
        trials = self._index.all()
        seeds_so_far = {trial.user_attrs[_SEED] for trial in trials if origin_of(trial) == origin}
        first = original.values["seed"] + 1
        new = [seed for seed in range(first, first + seeds) if seed not in seeds_so_far]
        for seed in new:
            attributes = {ORIGIN: str(origin), EXTRA: True, _SEED: seed}
            self._optuna.enqueue_trial(trials[original.number].params, user_attrs=attributes)
        return len(new)

    def replicates(self) -> dict[int, tuple[set[int], bool]]:
        """Of each trial that is replicated: the seeds that were asked for, and whether one of them is not finished."""
        replicates: dict[int, tuple[set[int], bool]] = {}
        for trial in self._index.all():
            if _SEED in trial.user_attrs:
                original = origin_of(trial).trial
                assert original is not None
                seeds, unfinished = replicates.get(original, (set(), False))
                replicates[original] = (
                    seeds | {trial.user_attrs[_SEED]},
                    unfinished or not trial.state.is_finished(),
                )
        return replicates

    def origin(self, number: int) -> Origin:
        """How a trial came to be."""
        return origin_of(self._trial(number))

    def is_replicate(self, number: int) -> bool:
        """Whether it repeats another trial with another seed."""
        return _SEED in self._trial(number).user_attrs

    def take_over(self, trial: StoredTrial, parameters: Parameters) -> None:
        """Let the sampler know a finished trial of another study."""
        self.enqueue(parameters, Origin(OriginKind.WARM_START), extra=True)
        assignment, _ = self.ask()
        for figures in trial.reports:
            self.report(assignment.number, report_number(figures), figures[self._study.metric])
        self.end(assignment.number, trial.status)

    def taken_over(self) -> int:
        """How many trials of another study the sampler knows."""
        trials = self._index.all()
        return sum(origin_of(trial).kind is OriginKind.WARM_START for trial in trials)

    def _reports(self, number: int) -> dict[int, float]:
        reports: dict[int, float] = self._trial(number).intermediate_values
        return reports

    def _value(self, number: int) -> float | None:
        """Of a trial's best report, one on all lists if there is one."""
        reports, every = self._reports(number), self._study.reports_per_epoch
        if every > 1:
            lists = self._folder.read_manifest()["plan"]["validation_lists"]
            every = 1 if part_size(lists) == lists else every
        on_all = [value for report, value in reports.items() if report % every == 0]
        pick = min if self._study.mode == "min" else max
        return pick(on_all or reports.values(), default=None)

    def _trial(self, number: int) -> Any:
        return trial_of(self._optuna, number)

    def _in_state(self, state: TrialState) -> list[Any]:
        if not state.is_finished():
            return self._index.unfinished(state)
        trials = self._optuna.get_trials(deepcopy=False, states=(state,))
        return [trial for trial in trials if not is_passed_over(trial)]


def _order(trial: Any) -> tuple[int, float]:
    """By what was counted, since a clock may jump; in journals that do not have it by the clock, and before."""
    counted = trial.user_attrs.get(ENDS)
    return (counted[1], 0.0) if counted else (-1, trial.datetime_complete.timestamp())


def _lasting(trial: Any) -> dict[str, Any]:
    """What a trial was asked for with."""
    return {name: value for name, value in trial.user_attrs.items() if name not in (CONFIG, ENDS)}


def _of_retry(trial: Any) -> dict[str, Any]:
    replicate = _SEED in trial.user_attrs  # it goes on to judge what it repeats, with its own seed
    return {
        **_lasting(trial),
        EXTRA: True,
        **({} if replicate else {ORIGIN: str(Origin(OriginKind.RETRY, trial.number))}),
    }
