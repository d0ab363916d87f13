"""A study → how much training it asks for, in epochs, before any of it is done."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import optuna
from pydantic import ValidationError

from tune.study_file.study import Study
from tune.study_file.trial_clock import WHOLE

_DRAWS = 400


@dataclass(frozen=True)
class Cost:
    """Epochs of all trials together.

    Attributes:
        most: if each trial had the most epochs and none were stopped.
        expected: of configurations drawn at random, if at each rung the scheduler kept its share. It keeps more while
            it knows few trials, or where many are catching up.
    """

    most: int
    expected: int

    def __str__(self) -> str:
        epochs = f"{self.most:,} epoch{'s' * (self.most != 1)}"
        return f"at most {epochs}, about {self.expected:,} expected"


def estimate_cost(study: Study) -> Cost:
    """The median rule keeps half from the first rung on, Hyperband's brackets are counted as ASHA's first."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=study.settings.seed))
    epochs = []
    for _ in range(_DRAWS):
        with suppress(ValidationError):  # the search passes over it as well
            epochs.append(study.draw(drawn.ask()).epochs)
    mean = sum(_expected_epochs(study, count) for count in epochs) / len(epochs)
    trials = study.settings.trials
    return Cost(trials * study.max_epochs, max(math.ceil(trials / study.reports_per_epoch), round(trials * mean)))


def _expected_epochs(study: Study, epochs: int) -> float:
    kind, reduction = study.settings.scheduler, study.settings.asha.reduction
    if kind == "none":
        return epochs
    per_epoch = study.reports_per_epoch
    marks = [mark if study.clock == "epoch" else mark * epochs / WHOLE for mark in study.rungs]
    marks = [math.ceil(mark * per_epoch - 1e-6) / per_epoch for mark in marks]
    if kind == "median":
        marks, reduction = marks[:1], 2
    expected, share, at = 0.0, 1.0, 0.0
    for mark in [*(mark for mark in marks if mark < epochs), epochs]:
        expected += share * (mark - at)
        share, at = share / reduction, mark
    return expected
