"""A teacher's name, or its file, and training lists → what it thinks of their candidates.

A teacher must not know more of a training list than it would of a new one, or it only repeats the true item. So a
recommender is fitted several times, each time without some users, and scores those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reranker.calibration import fitted_temperature
from reranker.data.example import Example
from reranker.data.interactions import ItemCodes
from reranker.data.recommenders.linear_recommenders import MOST_ITEMS, FloatArray, Recommender, fitted
from reranker.errors import Fault, InputError

FOLDS = 4  # of users


class Teacher(Protocol):
    """Scores candidates for a user, on a scale of its own."""

    def scores(self, examples: Sequence[Example]) -> FloatArray:
        """Of each example's candidates, [examples, candidates]; NaN where it has none."""


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """A recommender in several copies, each fitted without every `FOLDS`-th user, whom it scores."""

    folds: tuple[Recommender, ...]

    @staticmethod
    def fitted(name: str, sequences: Sequence[ItemCodes], items: int, *, on_known: bool = False) -> CrossFitted:
        """
        Args:
            on_known: see `reranker.data.recommenders.linear_recommenders.fitted`.

        Raises:
            InputError: the catalogue is too large for this recommender.
        """
        check_size(name, items)
        of_others = (
            [sequence for user, sequence in enumerate(sequences) if user % FOLDS != fold] for fold in range(FOLDS)
        )
        return CrossFitted(tuple(fitted(name, others, items, on_known=on_known) for others in of_others))

    def scores(self, examples: Sequence[Example]) -> FloatArray:
        """See `Teacher`."""
        fold_of = np.array([example.user % FOLDS for example in examples])
        candidates = np.array([example.candidates for example in examples], dtype=np.int64)
        scores = np.empty(candidates.shape)
        for fold, recommender in enumerate(self.folds):
            rows = np.flatnonzero(fold_of == fold)
            if len(rows):
                scores[rows] = recommender.scores_of([examples[row].history for row in rows.tolist()], candidates[rows])
        return scores


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A teacher with the temperature that makes probabilities of its scores."""

    teacher: Teacher
    temperature: float

    @staticmethod
    def on(teacher: Teacher, examples: Sequence[Example]) -> Calibrated:
        """With the temperature under which these examples' targets are most likely; see `fitted_temperature`."""
        scores = teacher.scores(examples)
        targets = np.array([example.target for example in examples], dtype=np.int64)
        has_score = np.isfinite(scores)
        tells = (has_score.sum(axis=1) > 1) & np.take_along_axis(has_score, targets[:, None], axis=1)[:, 0]
        scores, targets = np.where(has_score, scores, -np.inf)[tells], targets[tells]
        spread = _spread(scores)
        return Calibrated(teacher, spread * fitted_temperature(scores / spread, targets))

    def scores(self, examples: Sequence[Example]) -> FloatArray:
        """Log-probabilities up to a constant for each example; see `Teacher`."""
        found: FloatArray = self.teacher.scores(examples) / self.temperature
        return found


def taught(examples: Sequence[Example], teacher: Teacher) -> list[Example]:
    """The same examples with the teacher's scores."""
    scores: NDArray[np.float32] = teacher.scores(examples).astype(np.float32)
    return [replace(example, teacher=tuple(row)) for example, row in zip(examples, scores.tolist(), strict=True)]


def check_size(name: str, items: int) -> None:
    """
    Raises:
        InputError: the catalogue is too large for this recommender.
    """
    if items > (most := MOST_ITEMS.get(name, items)):
        rule = f"{name} must not have more than {most:,} items; there are {items:,}"
        raise InputError([Fault(rule, field="teacher", value=name, hint="take another, or raise min_item")])


def _spread(scores: FloatArray) -> float:
    """The standard deviation of scores within their lists; 1 if there is none."""
    finite = np.where(np.isfinite(scores), scores, np.nan)
    if not len(finite):
        return 1.0
    spread = math.sqrt(float(np.nanmean((finite - np.nanmean(finite, axis=1, keepdims=True)) ** 2)))
    return spread or 1.0
