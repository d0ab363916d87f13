"""Stored figures → the data of a report's charts: what to draw, and the statistics in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from reranker.metrics import FloatArray, IntArray, Ranks
from results.reporting.svg import ALIKE, OTHER, WIN
from results.study.stored_trial import StoredTrial

Point = tuple[StoredTrial, float, float]  # a trial, its cost, its value of the metric
_ALONE = 200  # trials


@dataclass(frozen=True)
class Figure:
    """A chart, or why there is none.

    Attributes:
        key: unique in the page; the prefix of every id in the SVG.
        title: what it shows.
        caption: what to see in it, in a sentence or two.
        svg: safe to put into a page; empty if there is no chart.
        wide: whether it needs the width of the page.
    """

    key: str
    title: str
    caption: str
    svg: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Contest:
    """The trials of a chart, and what it compares them with.

    Attributes:
        trials: those with a finished epoch.
        metric: the metric that chose the best trial, as named in the figures.
        label: its name as people write it.
        winner: the number of the best trial.
        tie_set: the numbers of trials that it is not proven better than, itself included.
        levels: the metric of baselines and chance.
        candidates: the number of items in a list.
    """

    trials: Sequence[StoredTrial]
    metric: str
    label: str
    winner: int
    tie_set: frozenset[int]
    levels: Mapping[str, float]
    candidates: int

    @property
    def sign(self) -> int:
        """-1 if lower is better, else 1."""
        return -1 if self.metric.endswith("_loss") else 1

    def colour(self, trial: StoredTrial) -> str:
        """The colour of a trial: winner, tie set or other."""
        if trial.number == self.winner:
            return WIN
        return ALIKE if trial.number in self.tie_set else OTHER

    def shown_alone(self) -> frozenset[int]:
        """The numbers of the trials that one can point at: the best ones, since of thousands nobody could."""

        def loss(trial: StoredTrial) -> float:
            best = trial.best(self.metric)
            return math.inf if best is None else -self.sign * float(best[self.metric])

        return frozenset({self.winner, *(trial.number for trial in sorted(self.trials, key=loss)[:_ALONE])})

    def behind_first(self) -> list[StoredTrial]:
        """The trials in drawing order, so that the winner lies on top."""
        return sorted(self.trials, key=lambda trial: (trial.number == self.winner, trial.number in self.tie_set))


def cost_points(contest: Contest, name: str, scale: float) -> list[Point]:
    """Each trial's cost and best value of the metric; trials without this cost are left out.

    Args:
        name: the cost's name in the figures.
        scale: a factor for the cost.
    """
    return [
        (trial, scale * float(trial.reports[-1][name]), float(best[contest.metric]))
        for trial in contest.trials
        if (best := trial.best(contest.metric)) and trial.reports[-1].get(name, 0) > 0
    ]


def pareto_front(points: Sequence[Point], sign: int) -> list[Point]:
    """The points that no other beats in both cost and quality, cheapest first; `sign` is -1 if lower is better."""
    front: list[Point] = []
    for point in sorted(points, key=lambda entry: (entry[1], -sign * entry[2])):
        if not front or sign * (point[2] - front[-1][2]) > 0:
            front.append(point)
    return front


def rank_shares(ranks: Ranks, candidates: int) -> FloatArray:
    """The share of lists with the target at each rank, [candidates]; a tie counts in equal parts at its ranks."""
    edges = np.zeros(candidates + 1)
    listed = ranks.greater < candidates
    weights = 1 / (ranks.ties[listed] + 1)
    np.add.at(edges, ranks.greater[listed], weights)
    np.subtract.at(edges, np.minimum(ranks.greater[listed] + ranks.ties[listed] + 1, candidates), weights)
    shares: FloatArray = np.cumsum(edges)[:candidates] / max(1, len(ranks.greater))
    return shares


def marginal_homogeneity(first: IntArray, second: IntArray, kinds: int) -> float:
    """The p-value that paired categorical values have the same marginal distribution.

    Source: Stuart, Biometrika 42, 1955: d' S⁻¹ d of the summed differences is χ²; its degrees of freedom are the rank
    of S.
    """
    differences = np.eye(kinds)[first] - np.eye(kinds)[second]
    total = differences.sum(axis=0)
    covariance = differences.T @ differences - np.outer(total, total) / len(differences)
    degrees = np.linalg.matrix_rank(covariance)
    return float(stats.chi2.sf(total @ np.linalg.pinv(covariance, hermitian=True) @ total, degrees)) if degrees else 1.0


def wilson_interval(shares: FloatArray, sizes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """95% intervals of shares. Source: Wilson, JASA 22, 1927."""
    z = 1.96
    middle = (shares + z**2 / (2 * sizes)) / (1 + z**2 / sizes)
    half_width = z / (1 + z**2 / sizes) * np.sqrt(shares * (1 - shares) / sizes + z**2 / (4 * sizes**2))
    return middle - half_width, middle + half_width
