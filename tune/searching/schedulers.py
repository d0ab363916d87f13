"""A study → the scheduler that stops weak trials early, its clock, and what it has seen in earlier launches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from reranker.metrics import chance
from tune.execution.trial_messages import Assignment, TuneResult
from tune.searching.ray_schedulers_private import OpenAsha, OpenMedianRule
from tune.searching.trial_store import PastTrial
from tune.study_file.study import Study
from tune.study_file.trial_clock import WHOLE, progress

_HYPERBAND_BRACKETS = 3
_HAIR = 1e-9  # rungs are so much earlier, so that three thirds of an epoch are not short of one


def make_scheduler(
    study: Study, ceiling: float | None = None, is_kept: Callable[[int], bool] = lambda number: False
) -> TrialScheduler:
    """Trials are compared on our own clock, never on Tune's count of reports, which restarts with each launch.

    The clock is `epoch`, or, for schedules whose rate decays towards each trial's own last epoch, `progress`: the
    percentage of its epochs that a trial has trained. By epochs a short trial would look better than a long one only
    because its rate has decayed already.

    Args:
        ceiling: the share of lists that hold their target; None: all do.
        is_kept: whether a trial, by its number, was asked to go on to its end.
    """
    kind, settings = study.settings.scheduler, study.settings.asha
    if kind == "none":
        return FIFOScheduler()
    marks = study.rungs
    common = {"time_attr": study.clock, "metric": study.metric, "mode": study.mode}
    if kind == "median":
        return _Median(is_kept, **common, grace_period=marks[0] if marks else WHOLE, min_time_slice=math.inf)
    brackets = min(_HYPERBAND_BRACKETS, max(1, len(marks))) if kind == "hyperband" else 1
    longest = study.max_epochs if study.clock == "epoch" else WHOLE
    return _Asha(
        study.settings.seed,
        _at_chance(study, 1.0 if ceiling is None else ceiling),
        settings.pace,
        is_kept,
        **common,
        grace_period=(marks[0] if marks else longest) * (1 - _HAIR),
        reduction_factor=settings.reduction,
        max_t=longest + 1,  # at `max_t` itself ASHA would stop a trial at its last report
        brackets=brackets,
        stop_last_trials=False,
    )


def _at_chance(study: Study, ceiling: float) -> float:
    """The metric of a model that knows nothing. The loss is of those lists alone that hold their target."""
    candidates = study.base().candidates
    return math.log(candidates) if study.metric == "val_loss" else ceiling * chance(candidates)[study.metric]


def replay(scheduler: TrialScheduler, trials: Iterable[PastTrial]) -> None:
    """Let a new scheduler know all that trials of earlier launches have reported, as the old one did.

    What a scheduler knows of a trial are its own reports, so that the order of the trials makes no difference.
    """
    for past in trials:
        scheduler.on_trial_add(None, past)


def _known(trial: Any, metric: str) -> list[TuneResult]:
    """Results that a trial has had in an earlier launch, which went on after each of them."""
    assignment = Assignment.of(trial.config)
    return [
        {"epoch": epoch, "progress": progress(epoch, assignment.config.epochs), metric: value}
        for epoch, value in assignment.reports
    ]


def _goes_to_the_end(trial: Any) -> bool:
    return Assignment.of(trial.config).to_the_end


def _is_judged(trial: Any, result: TuneResult) -> bool:
    """Whether a result is for a scheduler to decide on: not one between two epochs, nor of an earlier launch, nor any
    of a trial that goes on to its end."""
    before = {epoch for epoch, _ in Assignment.of(trial.config).reports}
    return "epoch" in result and result["epoch"] not in before and not _goes_to_the_end(trial)


class _Asha(OpenAsha):
    """Ray's, which gives slow learners a chance and whose draw of a bracket depends on the seed and the trial alone.

    Plain ASHA keeps whoever is ahead at a rung. In fine-tuning that is the higher rate, which is ahead for the first
    epochs and ends lower (docs/LOG.md). So a trial that is behind goes on if it would be at the cutoff by the next
    rung, were each doubling of its epochs to bring `pace` times what the last one has brought, counted from chance at
    0.
    """

    def __init__(self, seed: int, start: float, pace: float, is_kept: Callable[[int], bool], **options: Any) -> None:
        super().__init__(**options)
        self._seed, self._start, self._pace, self._is_kept = seed, start, pace, is_kept
        self._curves: dict[str, list[tuple[float, float]]] = {}

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        if _goes_to_the_end(trial):
            return
        with self.drawing(self._seed, Assignment.of(trial.config).number):
            super().on_trial_add(controller, trial)
        self._curves[trial.trial_id] = [(0.0, self.sign * self._start)]
        for result in _known(trial, self.metric):
            self._hear(controller, trial, result)

    def on_trial_result(self, controller: Any, trial: Any, result: TuneResult) -> str:
        if not _is_judged(trial, result):
            return str(TrialScheduler.CONTINUE)
        action = self._hear(controller, trial, result)
        if action == TrialScheduler.STOP:
            number = Assignment.of(trial.config).number
            if self._catches_up(trial.trial_id) or self._is_kept(number):
                return self.take_back_a_stop()
        return action

    def _hear(self, controller: Any, trial: Any, result: TuneResult) -> str:
        self._curves[trial.trial_id].append((result[self.time_attribute], self.sign * result[self.metric]))
        return str(super().on_trial_result(controller, trial, result))

    def on_trial_complete(self, controller: Any, trial: Any, result: TuneResult) -> None:
        if not _goes_to_the_end(trial):
            super().on_trial_complete(controller, trial, result)

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        if not _goes_to_the_end(trial):
            super().on_trial_remove(controller, trial)

    def _catches_up(self, trial_id: str) -> bool:
        curve = self._curves[trial_id]
        now, value = curve[-1]
        _, earlier = max(point for point in curve if point[0] <= now / 2)
        gain = self._pace * (value - earlier) * math.log2(self.reduction(trial_id))
        return value + gain >= self.cutoff(trial_id)


class _Median(OpenMedianRule):
    """Ray's, which cannot bear trials that end without a report, and counts the last report of a stopped one twice."""

    def __init__(self, is_kept: Callable[[int], bool], **options: Any) -> None:
        super().__init__(**options)
        self._is_kept = is_kept

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        super().on_trial_add(controller, trial)
        if not _goes_to_the_end(trial) and (earlier := _known(trial, self.metric)):
            self.remember(trial, earlier)

    def on_trial_result(self, controller: Any, trial: Any, result: TuneResult) -> str:
        if not _is_judged(trial, result):
            return str(TrialScheduler.CONTINUE)
        action = str(super().on_trial_result(controller, trial, result))
        is_kept = action == TrialScheduler.STOP and self._is_kept(Assignment.of(trial.config).number)
        return self.take_back_a_stop(trial) if is_kept else action

    def on_trial_complete(self, controller: Any, trial: Any, result: TuneResult) -> None:
        epochs_heard = [result_before["epoch"] for result_before in self.results(trial)]
        if _is_judged(trial, result) and result["epoch"] not in epochs_heard:
            super().on_trial_complete(controller, trial, result)
