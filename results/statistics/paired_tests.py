"""Per-user values of the same users under several rankers → what their differences prove: adjusted p-values and intervals."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
_Sums = NDArray[np.float32]

LEVEL = 0.05  # of all claims together
POWER = 0.8
RESAMPLES, FEWER = 9999, 2999  # the latter is enough for "p < 0.001" where two families share the level
_DECIDING = 999  # for a yes or no
_MANY = 5_000_000  # values of all reports together
_NORMAL = NormalDist()
_CHUNK = 500  # resamples at once
_AT_ONCE = 4_000_000  # comparisons times resamples
_BEHIND = 3.0  # standard errors behind the chosen report: further back, a report was no rival for the choice
_ROUNDING = 2e-5  # of a statistic, in single precision


@dataclass(frozen=True, eq=False)
class Ranker:
    """The values of the users under a baseline, or under a configuration with every report that it was chosen from.

    Attributes:
        runs: of each run the values by report, [reports, users], in the order in which they were made.
        chosen: of each run the report that stands for it.
        trained: whether it could have been given more reports, or fewer.
    """

    runs: tuple[FloatArray, ...]
    chosen: tuple[int, ...]
    trained: bool = True

    @staticmethod
    def of(values: FloatArray) -> Ranker:
        """One without a choice."""
        return Ranker((values[None],), (0,), trained=False)

    @functools.cached_property
    def values(self) -> FloatArray:
        """The mean over the runs at their chosen reports, [users]."""
        mean: FloatArray = np.mean([run[at] for run, at in zip(self.runs, self.chosen, strict=True)], axis=0)
        return mean

    @property
    def length(self) -> int:
        """How many reports its longest run has."""
        return max(len(run) for run in self.runs)


@dataclass(frozen=True)
class Difference:
    """How much more the first has than the second, on average over the users.

    Attributes:
        mean: of the differences.
        p: two-sided, adjusted for all comparisons of its family, and for other families that share the level.
        low, high: an interval that holds for all comparisons of the family together, in 95 of 100 families at least. Where p
            proves a difference it ends at zero at the latest, and where p proves none it reaches zero.
    """

    mean: float
    p: float
    low: float
    high: float

    @property
    def proven(self) -> bool:
        return self.p < LEVEL


def mean_interval(values: FloatArray) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of the mean over users, [users] → (low, high)."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    if len(values) > 4000:  # where the bootstrap's distribution is normal to three digits
        half = _NORMAL.inv_cdf(0.975) * standard_error(values)
        return float(values.mean()) - half, float(values.mean()) + half
    low, high = np.quantile(_redraws(len(values)) @ values.astype(np.float32), [0.025, 0.975])
    return float(low), float(high)


@functools.lru_cache(maxsize=2)
def _redraws(users: int) -> _Sums:
    """The weights of the users in each redraw of as many of them, [redraws, users]."""
    rng, redraws = np.random.default_rng(0), 2000
    drawn = rng.integers(0, users, (redraws, users)) + users * np.arange(redraws)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=redraws * users).reshape(redraws, users)
    return (counts / users).astype(np.float32)


def standard_error(values: FloatArray) -> float:
    """Of the mean over users."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def differences(pairs: Sequence[tuple[FloatArray, FloatArray]], seed: int = 0) -> list[Difference]:
    """Each pair's mean difference over the same users, where nothing was chosen; see `Family`.

    Args:
        pairs: (first, second), each [users].
    """
    if not pairs:
        return []
    rankers = [Ranker.of(values) for pair in pairs for values in pair]
    family = Family.of(Flips.of(rankers, seed), [(i, i + 1) for i in range(0, len(rankers), 2)])
    return family.differences


@dataclass(frozen=True, eq=False)
class Flips:
    """Rankers, and what becomes of them when users' signs are flipped at random.

    If two rankers are alike, the sign of each user's difference is a coin's. All rankers are flipped alike. Each run then
    chooses its best report anew, so what is drawn has the luck of the choice in it as what was seen has. A search that stops
    weak trials gives the lucky ones more reports to choose from; so every run can be drawn with as many as the longest, those
    that it lacks being its last one with the changes of a longer run.

    Attributes:
        means: of the rankers as they are, [rankers].
        products: of their values with each other, summed over users, [rankers, rankers].
        users: how many there are.
        drawn: sums over the users with flipped signs, all runs as long as the longest, [rankers, resamples].
        centred: the same of values whose mean was taken off, report by report.
        levels: numbers of reports, from the shortest ranker's to the longest one's.
        at_level: like `drawn`, with so many reports a run, [levels, rankers, the first resamples].
        lengths: places of the rankers' own numbers of reports among the levels.
    """

    means: FloatArray
    products: FloatArray
    users: int
    drawn: _Sums
    centred: _Sums
    levels: list[int]
    at_level: _Sums
    lengths: NDArray[np.intp]

    @staticmethod
    def of(rankers: Sequence[Ranker], seed: int = 0, resamples: int | None = None) -> Flips:
        """
        Args:
            resamples: None: 9,999, or 2,999 where the values are many.
        """
        values = np.array([ranker.values for ranker in rankers])
        common = values.mean(axis=0)  # every difference is without it, and single precision goes further
        levels = _levels(rankers)
        pools = _Pools.of(rankers, levels, common)
        table, users = pools.reports.astype(np.float32), values.shape[1]
        means = pools.reports.mean(axis=1).astype(np.float32)[:, None]
        resamples = resamples or (RESAMPLES if table.size <= _MANY else FEWER)
        drawn, fewer = np.empty((len(rankers), resamples), np.float32), min(resamples, _DECIDING)
        centred, at_level = np.empty_like(drawn), np.empty((len(levels), len(rankers), fewer), np.float32)
        rng = np.random.default_rng(seed)
        for start in range(0, resamples, _CHUNK):
            some = slice(start, min(start + _CHUNK, resamples))
            signs = rng.integers(0, 2, (users, some.stop - start), dtype=np.int8).astype(np.float32) * 2 - 1
            sums = table @ signs
            drawn[:, some] = pools.best(sums, len(levels) - 1)
            if start < fewer:
                for level in range(len(levels)):
                    at_level[level, :, some] = pools.best(sums, level)[:, : fewer - start]
            centred[:, some] = pools.best(sums - means * signs.sum(axis=0), len(levels) - 1)
        apart = values - common
        own = [levels.index(min(max(r.length, levels[0]), levels[-1])) if r.trained else 0 for r in rankers]
        return Flips(values.mean(axis=1), apart @ apart.T, users, drawn, centred, levels, at_level, np.array(own))


def _levels(rankers: Sequence[Ranker]) -> list[int]:
    return sorted({ranker.length for ranker in rankers if ranker.trained}) or [1]


@dataclass(frozen=True, eq=False)
class _Pools:
    """Of each run the reports that it may choose from, at each level.

    Attributes:
        reports: of all runs, those that they lack included, [rows, users].
        rows: at each level the rows of all runs, one run after the other.
        first: at each level where the rows of each run begin.
        first_run: where the runs of each ranker begin.
        counts: how many runs each ranker has, [rankers, 1].
    """

    reports: FloatArray
    rows: list[NDArray[np.intp]]
    first: list[NDArray[np.intp]]
    first_run: NDArray[np.intp]
    counts: NDArray[np.intp]

    @staticmethod
    def of(rankers: Sequence[Ranker], levels: Sequence[int], common: FloatArray) -> _Pools:
        longest = [run for ranker in rankers if ranker.trained for run in ranker.runs if len(run) >= levels[-1]]
        reports: list[FloatArray] = []
        chosen_from: list[list[NDArray[np.intp]]] = [[] for _ in levels]
        begin, runs = 0, 0
        for ranker in rankers:
            for run in ranker.runs:
                whole = _prolonged(run, longest[runs % len(longest)]) if ranker.trained else run
                reports.append(whole - common)
                for at, level in enumerate(levels):
                    chosen_from[at].append(begin + _rivals(run, level if ranker.trained else len(run), len(whole)))
                begin, runs = begin + len(whole), runs + 1
        counts = np.array([len(ranker.runs) for ranker in rankers])
        first = [np.cumsum([0, *(len(rows) for rows in of_runs)])[:-1] for of_runs in chosen_from]
        rows = [np.concatenate(of_runs) for of_runs in chosen_from]
        return _Pools(np.concatenate(reports), rows, first, np.cumsum([0, *counts])[:-1], counts[:, None])

    def best(self, sums: _Sums, level: int) -> _Sums:
        """The mean over a ranker's runs of each one's largest, [rankers, resamples]."""
        best = np.maximum.reduceat(sums[self.rows[level]], self.first[level], axis=0)
        total: _Sums = np.add.reduceat(best, self.first_run, axis=0)
        total /= self.counts
        return total


def _prolonged(run: FloatArray, longest: FloatArray) -> FloatArray:
    """With the reports that it lacks: its last one with the changes of a longer run, but for what that learned meanwhile."""
    changes = longest[len(run) :] - longest[len(run) - 1]
    return np.concatenate([run, run[-1] + changes - changes.mean(axis=1, keepdims=True)])


def _rivals(run: FloatArray, level: int, known: int) -> NDArray[np.intp]:
    """Which of its first reports luck might have had chosen, and those that it lacks at this level."""
    there = run[:level]
    behind = there[there.mean(axis=1).argmax()] - there
    error = behind.std(axis=1, ddof=min(1, run.shape[1] - 1)) / math.sqrt(run.shape[1])
    rivals = np.flatnonzero(behind.mean(axis=1) <= _BEHIND * error)
    return np.concatenate([rivals, np.arange(len(there), min(level, known))])


@dataclass(frozen=True, eq=False)
class Family:
    """Comparisons whose p-values and intervals hold for all of them together.

    Attributes:
        differences: one for each pair.
        reach: by how many standard errors each one must stand out for its interval to leave zero.
    """

    differences: list[Difference]
    reach: list[float]

    @staticmethod
    def of(flips: Flips, pairs: Sequence[tuple[int, int]], families: int = 1) -> Family:
        """Held against the largest standardised difference among the pairs that are not rejected yet: Holm's steps, with
        the joint distribution in the place of Bonferroni's bound, so that pairs that go together cost less. Source: Westfall
        & Young, Resampling-Based Multiple Testing, 1993, algorithm 2.8 (step-down maxT). The interval's reach is the
        quantile of the largest of all centred differences (single-step maxT).

        What standardises a pair is the spread of its own draws, the choice of reports included. Were it the spread of what was
        chosen, an untrained trial beside the untrained baseline, all but equal to it, would stand out of every scale
        with its other reports, and hide what any other pair shows.

        Args:
            pairs: (first, second), places among the rankers.
            families: how many share the level, this one among them.
        """
        if not pairs:
            return Family([], [])
        first, second = np.array(pairs).T
        mean, spread = flips.means[first] - flips.means[second], _spread(flips, first, second)

        def largest(some: slice, at: NDArray[np.intp]) -> _Sums:
            found: _Sums = np.abs(flips.drawn[first[at], some] - flips.drawn[second[at], some])
            return found

        p = np.minimum(1.0, families * _stepped_down(largest, flips.drawn.shape[1], mean * flips.users))
        half = _half_widths(flips, first, second, LEVEL / families)
        error = spread / math.sqrt(max(1, flips.users))
        reach = np.divide(half, error, out=np.zeros_like(half), where=error > 0)
        found = [_difference(float(m), float(value), float(h)) for m, value, h in zip(mean, p, half, strict=True)]
        return Family(found, reach.tolist())


def tied(flips: Flips, count: int, families: int = 1) -> list[int]:
    """Which of the first `count` rankers the very first is not proven to differ from, itself among them.

    All pairs of them are compared in one family, as in `Family`. One that was stopped earlier may have been so by bad luck:
    of a pair with different numbers of reports, either may be drawn with the more, and the other with the fewer.
    """
    if count < 2:
        return [0]
    first, second = np.array(list(itertools.combinations(range(count), 2))).T
    mean = flips.means[first] - flips.means[second]
    short = np.minimum(flips.lengths[first], flips.lengths[second])
    long = np.maximum(flips.lengths[first], flips.lengths[second])

    def largest(some: slice, at: NDArray[np.intp]) -> _Sums:
        one, other, few, many = first[at], second[at], short[at], long[at]
        ahead = flips.at_level[many, one, some] - flips.at_level[few, other, some]
        unequal = few < many
        found: _Sums = np.abs(ahead)
        other_way = flips.at_level[many, other, some] - flips.at_level[few, one, some]
        found[unequal] = np.maximum(ahead, other_way)[unequal]
        return found

    p = _stepped_down(largest, flips.at_level.shape[2], mean * flips.users)
    return [0, *(i for i in range(1, count) if families * p[i - 1] >= LEVEL)]


def _spread(flips: Flips, first: NDArray[np.intp], second: NDArray[np.intp]) -> FloatArray:
    """Of each pair the standard deviation of the users' differences at the chosen reports."""
    mean = flips.means[first] - flips.means[second]
    own = np.diag(flips.products)
    square = own[first] + own[second] - 2 * flips.products[first, second]
    within = square - flips.users * mean**2
    within[within < 1e-12 * (own[first] + own[second])] = 0.0
    return np.sqrt(within / max(1, flips.users - 1))


def _difference(mean: float, p: float, half: float) -> Difference:
    low, high = mean - half, mean + half
    if p >= LEVEL:
        return Difference(mean, p, min(low, 0.0), max(high, 0.0))
    return Difference(mean, p, max(low, 0.0) if mean > 0 else low, min(high, 0.0) if mean < 0 else high)


def _stepped_down(largest: Callable[[slice, NDArray[np.intp]], _Sums], resamples: int, total: FloatArray) -> FloatArray:
    """Adjusted p-values.

    Args:
        largest: some resamples, places of pairs → what was drawn of them, without its sign, [pairs, resamples].
        total: sum over the users of each pair's difference.
    """
    weight = _weights(largest, resamples, len(total))
    seen = np.abs(total) * weight
    order = np.argsort(-seen, kind="stable")
    least = (seen[order] * (1 - _ROUNDING) - _ROUNDING)[:, None].astype(np.float32)
    scale = weight[order][:, None].astype(np.float32)
    reached = np.zeros(len(order), dtype=np.int64)
    for some in _slices(resamples, len(order)):
        statistic = largest(some, order)
        statistic *= scale
        np.maximum.accumulate(statistic[::-1], axis=0, out=statistic[::-1])  # the largest of those still in play
        reached += np.count_nonzero(statistic >= least, axis=1)
    p = np.empty(len(order))
    p[order] = np.maximum.accumulate((reached + 1) / (resamples + 1))
    return p


def _weights(largest: Callable[[slice, NDArray[np.intp]], _Sums], resamples: int, pairs: int) -> FloatArray:
    """Of each pair one over the root mean square of what was drawn; 0 where that is nothing but rounding."""
    square, everyone = np.zeros(pairs), np.arange(pairs)
    for some in _slices(resamples, pairs):
        square += np.square(largest(some, everyone), dtype=np.float64).sum(axis=1)
    root = np.sqrt(square / resamples)
    weights: FloatArray = np.divide(1.0, root, out=np.zeros_like(root), where=root > _ROUNDING)
    return weights


def _half_widths(flips: Flips, first: NDArray[np.intp], second: NDArray[np.intp], level: float) -> FloatArray:
    """Of each pair's interval: the mean's distance that the largest of all, each in its own spread, exceeds at this level."""

    def largest(some: slice, at: NDArray[np.intp]) -> _Sums:
        found: _Sums = np.abs(flips.centred[first[at], some] - flips.centred[second[at], some])
        return found

    resamples = flips.centred.shape[1]
    weight = _weights(largest, resamples, len(first))
    highest, everyone = np.empty(resamples, np.float32), np.arange(len(first))
    scale = weight[:, None].astype(np.float32)
    for some in _slices(resamples, len(first)):
        highest[some] = (largest(some, everyone) * scale).max(axis=0)
    quantile = float(np.quantile(highest, 1 - level))
    unit = np.divide(1.0, weight, out=np.zeros_like(weight), where=weight > 0)
    half: FloatArray = quantile * unit / math.sqrt(max(1, flips.users - 1) * flips.users)
    return half


def _slices(resamples: int, pairs: int) -> list[slice]:
    step = max(1, _AT_ONCE // pairs)
    return [slice(start, min(start + step, resamples)) for start in range(0, resamples, step)]


def smallest_detectable(spread: float, users: int, reach: float) -> float:
    """The difference that a comparison finds with 80% power: (its family's reach + z of the power) · spread / √users.

    Args:
        spread: standard deviation of the per-user differences.
        reach: of the family, in standard errors; 1.96 for a single comparison.
    """
    return float((reach + _NORMAL.inv_cdf(POWER)) * spread / math.sqrt(users))
