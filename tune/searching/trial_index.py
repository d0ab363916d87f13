"""The trials of a journal by their state, without a look at those that have ended, which do not change any more.

A search asks a dozen times a trial what is running, what waits and how many have ended. Optuna answers with a list of all
trials, so that with thousands of them it would take longer to begin a trial than the trial itself may.
"""

from __future__ import annotations

import contextlib
import math
from bisect import insort
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from results.study.optuna_journal import ORIGIN
from results.study.trial_origin import Origin, OriginKind
from tune.searching.optuna_private import trial_of

EXTRA = "extra"  # the attribute of trials beyond the study's number: added by hand, tried again, taken over
_FEW = 30  # unfinished trials that are looked at one by one
_TAKEN_OVER = str(Origin(OriginKind.WARM_START))


class TrialIndex:
    """For one process, which alone adds to the journal."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._sign = -1 if study.direction is StudyDirection.MAXIMIZE else 1
        self._trials: list[Any] = []  # as they were at the last look
        self._unfinished: list[int] = []
        self._extra, self._own_ended = 0, 0
        self._merits: list[tuple[tuple[int, int, float], int]] = []  # of those with a score to learn from, best first
        self._scored: list[int] = []  # their numbers

    def all(self) -> Sequence[Any]:
        """Every trial, by number."""
        self._look()
        unfinished = []
        for number in self._unfinished:
            if self._trials[number].state.is_finished():
                self._take(self._trials[number])
            else:
                unfinished.append(number)
        self._unfinished = unfinished
        return self._trials

    def _look(self) -> None:
        known = len(self._trials)
        if not known or len(self._unfinished) > _FEW:
            self._trials = list(self._study.get_trials(deepcopy=False))
        else:
            for number in self._unfinished:
                self._trials[number] = trial_of(self._study, number)
            with contextlib.suppress(KeyError):
                while True:
                    self._trials.append(trial_of(self._study, len(self._trials)))
        new = range(known, len(self._trials))
        self._extra += sum(bool(self._trials[number].user_attrs.get(EXTRA)) for number in new)
        self._unfinished += new

    def _take(self, trial: Any) -> None:
        self._own_ended += trial.user_attrs.get(ORIGIN) != _TAKEN_OVER
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            insort(self._merits, (self._merit(trial), trial.number))
            insort(self._scored, trial.number)

    def _merit(self, trial: Any) -> tuple[int, int, float]:
        """In TPE's order: what is complete by its value, then what was stopped, the latest first."""
        if trial.state is TrialState.COMPLETE:
            return 0, 0, self._sign * trial.value
        step, value = max(trial.intermediate_values.items(), default=(-1, math.nan))
        return 1, -step, math.inf if math.isnan(value) else self._sign * value

    def unfinished(self, state: TrialState) -> list[Any]:
        """Those that are running or waiting, by number."""
        trials = self.all()
        return [trials[number] for number in self._unfinished if trials[number].state is state]

    def asked(self) -> int:
        """How many were asked for, or wait to be, without those beyond the study's number."""
        return len(self.all()) - self._extra

    def own_ended(self) -> int:
        """How many have ended, without those of other studies."""
        self.all()
        return self._own_ended

    def best_and_latest(self, best: int, latest: int) -> list[Any] | None:
        """So many of those that are complete or were stopped, and all that run, by number; None if nothing is left out."""
        trials = self.all()
        if len(self._scored) <= best + latest:
            return None
        chosen = {number for _, number in self._merits[:best]}
        chosen.update(number for number in self._unfinished if trials[number].state is TrialState.RUNNING)
        chosen.update([number for number in self._scored[-best - latest :] if number not in chosen][-latest:])
        return [trials[number] for number in sorted(chosen)]
