"""Per-user values of the same users under several rankers → differences with adjusted p-values and intervals."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
_Sums = NDArray[np.float32]

LEVEL = 0.05  # the family-wise error rate
POWER = 0.8
RESAMPLES, FEWER = 9999, 2999  # 2,999 are enough for "p < 0.001" if two families share the level
_DECIDING = 999  # resamples for a yes or no
_MANY = 5_000_000  # values in all reports together; above this, fewer resamples
_NORMAL = NormalDist()
_CHUNK = 500  # resamples computed at once
_AT_ONCE = 250_000  # comparisons times resamples, computed at once: as many as a core's cache holds
_BEHIND = 3.0  # standard errors behind the best report; reports further back could not have been chosen by luck
_ROUNDING = 2e-5  # relative rounding error of a statistic in single precision


@dataclass(frozen=True, eq=False)
class Ranker:
    """Per-user values under a baseline, or under a configuration with every report that it was chosen from.

    Attributes:
        runs: the values of each run, [reports, users], oldest report first.
        chosen: the index of each run's chosen report.
        trained: whether the number of reports could have been different.
    """

    runs: tuple[FloatArray, ...]
    chosen: tuple[int, ...]
    trained: bool = True

    @staticmethod
    def of(values: FloatArray) -> Ranker:
        """A ranker with nothing to choose from, such as a baseline."""
        return Ranker((values[None],), (0,), trained=False)

    @functools.cached_property
    def values(self) -> FloatArray:
        """The mean over the runs' chosen reports, [users]."""
        mean: FloatArray = np.mean([run[report] for run, report in zip(self.runs, self.chosen, strict=True)], axis=0)
        return mean

    def on(self, users: NDArray[np.bool_]) -> Ranker:
        """The same for a part of the users, [users]; what was chosen stays chosen."""
        return Ranker(tuple(run[:, users] for run in self.runs), self.chosen, self.trained)

    @property
    def length(self) -> int:
        """The number of reports of its longest run."""
        return max(len(run) for run in self.runs)


@dataclass(frozen=True)
class Difference:
    """The mean difference between two rankers over the users, first minus second.

    Attributes:
        mean: the mean of the per-user differences.
        p: two-sided, adjusted for all comparisons of its family and for other families that share the level.
        low, high: a simultaneous 95% interval: in 95 of 100 families, all intervals of the family hold. It never
            crosses zero if p proves a difference, and always contains zero if not.
    """

    mean: float
    p: float
    low: float
    high: float

    @property
    def proven(self) -> bool:
        """Whether p is below `LEVEL`."""
        return self.p < LEVEL

    @property
    def word(self) -> str:
        """What is proven of the first ranker: better, worse, or not told apart."""
        return "not told apart" if not self.proven else "better" if self.mean > 0 else "worse"


def mean_interval(values: FloatArray, sizes: FloatArray | None = None) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of the mean over users, [users] → (low, high).

    Args:
        sizes: each user's number of lists over their mean, [users]. A resample's values are then divided by what its users
            have of them: whoever has many lists counts for as many, in both.
    """
    mean = float(values.mean())
    above = values if sizes is None else values - mean * sizes
    if len(values) < 2 or np.ptp(above) == 0:
        return mean, mean
    if len(values) > 4000:  # from here on the bootstrap distribution is normal to three digits
        half_width = _NORMAL.inv_cdf(0.975) * standard_error(above)
        return mean - half_width, mean + half_width
    means = _redraws(len(values)) @ values.astype(np.float32)
    if sizes is not None:
        means /= _redraws(len(values)) @ sizes.astype(np.float32)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@functools.lru_cache(maxsize=2)
def _redraws(users: int) -> _Sums:
    """The weight of each user in each bootstrap sample, [samples, users]."""
    rng, redraws = np.random.default_rng(0), 2000
    indices = rng.integers(0, users, (redraws, users)) + users * np.arange(redraws)[:, None]
    counts = np.bincount(indices.ravel(), minlength=redraws * users).reshape(redraws, users)
    return (counts / users).astype(np.float32)


def standard_error(values: FloatArray) -> float:
    """The standard error of the mean over users."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def differences(pairs: Sequence[tuple[FloatArray, FloatArray]], seed: int = 0) -> list[Difference]:
    """Test the mean difference of each pair, where nothing was chosen; see `Family`.

    Args:
        pairs: (first, second), each [users].

    >>> rng = np.random.default_rng(0)
    >>> second = rng.random(500)
    >>> [difference] = differences([(second + rng.normal(0.1, 0.3, 500), second)])
    >>> difference.word, round(difference.mean, 2), difference.low < 0.1 < difference.high
    ('better', 0.08, True)
    """
    if not pairs:
        return []
    rankers = [Ranker.of(values) for pair in pairs for values in pair]
    family = Family.of(Flips.of(rankers, seed), [(i, i + 1) for i in range(0, len(rankers), 2)])
    return family.differences


@dataclass(frozen=True, eq=False)
class Flips:
    """Rankers and their sign-flip resamples.

    If two rankers are alike, the sign of each user's difference is random. A resample flips the same users' signs for
    all rankers. Each run then chooses its best report again, so resamples contain the luck of the choice too. A search
    that stops weak trials gives the lucky ones more reports to choose from. So every run can be resampled with as many
    reports as the longest; a missing report is the run's last one plus the changes of a longer run.

    Attributes:
        means: the observed means, [rankers].
        products: the products of the rankers' values, summed over users, [rankers, rankers].
        users: the number of users.
        drawn: sums over users with flipped signs, all runs as long as the longest, [rankers, resamples].
        centred: the same for values minus their report's mean.
        levels: the distinct numbers of reports of the trained rankers, ascending.
        at_level: like `drawn`, with that many reports per run, [levels, rankers, the first resamples].
        lengths: for each ranker, the index of its own number of reports in `levels`.
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
        """Draw the resamples.

        Args:
            resamples: None for 9,999, or 2,999 if there are many values.
        """
        values = np.array([ranker.values for ranker in rankers])
        mean_values = values.mean(axis=0)  # cancels in every difference; without it, single precision is more exact
        levels = _levels(rankers)
        pools = _Pools.of(rankers, levels, mean_values)
        table, users = pools.reports.astype(np.float32), values.shape[1]
        means = pools.reports.mean(axis=1).astype(np.float32)[:, None]
        resamples = resamples or (RESAMPLES if table.size <= _MANY else FEWER)
        drawn, few = np.empty((len(rankers), resamples), np.float32), min(resamples, _DECIDING)
        centred, at_level = np.empty_like(drawn), np.empty((len(levels), len(rankers), few), np.float32)
        rng = np.random.default_rng(seed)
        for start in range(0, resamples, _CHUNK):
            batch = slice(start, min(start + _CHUNK, resamples))
            signs = rng.integers(0, 2, (users, batch.stop - start), dtype=np.int8).astype(np.float32) * 2 - 1
            sums = table @ signs
            drawn[:, batch] = pools.best(sums, len(levels) - 1)
            if start < few:
                for level in range(len(levels)):
                    at_level[level, :, batch] = pools.best(sums, level)[:, : few - start]
            centred[:, batch] = pools.best(sums - means * signs.sum(axis=0), len(levels) - 1)
        deviations = values - mean_values
        lengths = [levels.index(min(max(r.length, levels[0]), levels[-1])) if r.trained else 0 for r in rankers]
        return Flips(
            values.mean(axis=1), deviations @ deviations.T, users, drawn, centred, levels, at_level, np.array(lengths)
        )


def _levels(rankers: Sequence[Ranker]) -> list[int]:
    return sorted({ranker.length for ranker in rankers if ranker.trained}) or [1]


@dataclass(frozen=True, eq=False)
class _Pools:
    """The reports that each run may choose from, at each level.

    Attributes:
        reports: the reports of all runs, extended to the longest, [rows, users].
        rows: at each level, the rows of all runs, run after run.
        first: at each level, where each run's rows begin.
        first_run: where each ranker's runs begin.
        counts: each ranker's number of runs, [rankers, 1].
    """

    reports: FloatArray
    rows: list[NDArray[np.intp]]
    first: list[NDArray[np.intp]]
    first_run: NDArray[np.intp]
    counts: NDArray[np.intp]

    @staticmethod
    def of(rankers: Sequence[Ranker], levels: Sequence[int], mean_values: FloatArray) -> _Pools:
        """The pools of all rankers; `mean_values` [users] is subtracted from every report."""
        longest = [run for ranker in rankers if ranker.trained for run in ranker.runs if len(run) >= levels[-1]]
        reports: list[FloatArray] = []
        chosen_from: list[list[NDArray[np.intp]]] = [[] for _ in levels]
        begin, runs = 0, 0
        for ranker in rankers:
            for run in ranker.runs:
                whole = _prolonged(run, longest[runs % len(longest)]) if ranker.trained else run
                reports.append(whole - mean_values)
                for place, level in enumerate(levels):
                    chosen_from[place].append(begin + _rivals(run, level if ranker.trained else len(run), len(whole)))
                begin, runs = begin + len(whole), runs + 1
        counts = np.array([len(ranker.runs) for ranker in rankers])
        first = [np.cumsum([0, *(len(rows) for rows in of_runs)])[:-1] for of_runs in chosen_from]
        rows = [np.concatenate(of_runs) for of_runs in chosen_from]
        return _Pools(np.concatenate(reports), rows, first, np.cumsum([0, *counts])[:-1], counts[:, None])

    def best(self, sums: _Sums, level: int) -> _Sums:
        """Each ranker's mean over its runs' largest sums, [rankers, resamples]."""
        best = np.maximum.reduceat(sums[self.rows[level]], self.first[level], axis=0)
        total: _Sums = np.add.reduceat(best, self.first_run, axis=0)
        total /= self.counts
        return total


def _prolonged(run: FloatArray, longest: FloatArray) -> FloatArray:
    """The run with its missing reports: its last one plus a longer run's changes, without their mean over users."""
    changes = longest[len(run) :] - longest[len(run) - 1]
    return np.concatenate([run, run[-1] + changes - changes.mean(axis=1, keepdims=True)])


def _rivals(run: FloatArray, level: int, total: int) -> NDArray[np.intp]:
    """Indices of the run's first reports that luck could have chosen, and of its missing reports at this level."""
    reports = run[:level]
    deficits = reports[reports.mean(axis=1).argmax()] - reports
    error = deficits.std(axis=1, ddof=min(1, run.shape[1] - 1)) / math.sqrt(run.shape[1])
    rivals = np.flatnonzero(deficits.mean(axis=1) <= _BEHIND * error)
    return np.concatenate([rivals, np.arange(len(reports), min(level, total))])


@dataclass(frozen=True, eq=False)
class Family:
    """Comparisons with family-wise p-values and intervals.

    Attributes:
        differences: one for each pair.
        reach: the half-width of each pair's interval in standard errors.
    """

    differences: list[Difference]
    reach: list[float]

    @staticmethod
    def of(flips: Flips, pairs: Sequence[tuple[int, int]], families: int = 1) -> Family:
        """Test pairs of rankers by step-down maxT.

        Each difference is compared with the largest standardised difference among the pairs that are not rejected
        yet. These are Holm's steps with the joint distribution in place of Bonferroni's bound, so correlated pairs
        cost less. Source: Westfall & Young, Resampling-Based Multiple Testing, 1993, algorithm 2.8. The intervals use
        the quantile of the largest centred difference (single-step maxT).

        Each pair is standardised by the spread of its own resamples, which includes the choice of reports. With the
        spread of the chosen reports alone, a pair of almost equal rankers (an untrained trial and the untrained
        baseline) would get huge statistics from its other reports and hide every other pair.

        Args:
            pairs: (first, second), indices of rankers.
            families: the number of families that share the level, including this one.
        """
        if not pairs:
            return Family([], [])
        first, second = np.array(pairs).T
        mean, spread = flips.means[first] - flips.means[second], _spread(flips, first, second)

        def absolute_draws(selected: NDArray[np.intp]) -> _Sums:
            sizes: _Sums = np.abs(flips.drawn[first[selected]] - flips.drawn[second[selected]])
            return sizes

        p = np.minimum(1.0, families * _stepped_down(absolute_draws, flips.drawn.shape[1], mean * flips.users))
        half_widths = _half_widths(flips, first, second, LEVEL / families)
        error = spread / math.sqrt(max(1, flips.users))
        reach = np.divide(half_widths, error, out=np.zeros_like(half_widths), where=error > 0)
        pair_differences = [
            _difference(float(m), float(value), float(h)) for m, value, h in zip(mean, p, half_widths, strict=True)
        ]
        return Family(pair_differences, reach.tolist())


def tied(flips: Flips, count: int, families: int = 1) -> list[int]:
    """The tie set: those of the first `count` rankers that the first is not proven to differ from, itself included.

    All their pairs are tested in one family, as in `Family`. A ranker may have been stopped early by bad luck. So in a
    pair with different numbers of reports, either may be resampled with more reports and the other with fewer.
    """
    if count < 2:
        return [0]
    first, second = np.triu_indices(count, 1)
    mean = flips.means[first] - flips.means[second]
    fewer = np.minimum(flips.lengths[first], flips.lengths[second])
    more = np.maximum(flips.lengths[first], flips.lengths[second])

    def absolute_draws(selected: NDArray[np.intp]) -> _Sums:
        one, other, few, many = first[selected], second[selected], fewer[selected], more[selected]
        ahead = flips.at_level[many, one] - flips.at_level[few, other]
        sizes: _Sums = np.abs(ahead)
        if len(unequal := np.flatnonzero(few < many)):
            one, other, few, many = one[unequal], other[unequal], few[unequal], many[unequal]
            reverse = flips.at_level[many, other] - flips.at_level[few, one]
            sizes[unequal] = np.maximum(ahead[unequal], reverse)
        return sizes

    p = _stepped_down(absolute_draws, flips.at_level.shape[2], mean * flips.users)
    return [0, *(i for i in range(1, count) if families * p[i - 1] >= LEVEL)]


def _spread(flips: Flips, first: NDArray[np.intp], second: NDArray[np.intp]) -> FloatArray:
    """For each pair, the standard deviation of the per-user differences at the chosen reports."""
    mean = flips.means[first] - flips.means[second]
    squares = np.diag(flips.products)
    difference_squares = squares[first] + squares[second] - 2 * flips.products[first, second]
    deviation_squares = difference_squares - flips.users * mean**2
    deviation_squares[deviation_squares < 1e-12 * (squares[first] + squares[second])] = 0.0
    return np.sqrt(deviation_squares / max(1, flips.users - 1))


def _difference(mean: float, p: float, half_width: float) -> Difference:
    low, high = mean - half_width, mean + half_width
    if p >= LEVEL:
        return Difference(mean, p, min(low, 0.0), max(high, 0.0))
    return Difference(mean, p, max(low, 0.0) if mean > 0 else low, min(high, 0.0) if mean < 0 else high)


def _stepped_down(absolute_draws: Callable[[NDArray[np.intp]], _Sums], resamples: int, total: FloatArray) -> FloatArray:
    """Adjusted p-values.

    Args:
        absolute_draws: indices of pairs → their absolute resampled sums, [pairs, resamples].
        total: each pair's difference, summed over users.
    """
    weights = _weights(absolute_draws, resamples, len(total))
    observed = np.abs(total) * weights
    order = np.argsort(-observed, kind="stable")
    thresholds = (observed[order] * (1 - _ROUNDING) - _ROUNDING)[:, None].astype(np.float32)
    scale = weights[order][:, None].astype(np.float32)
    exceedances = np.empty(len(order), dtype=np.int64)
    largest = np.full(resamples, -np.inf, np.float32)  # among the pairs behind, which are not rejected yet either
    for block in reversed(_blocks(len(order), resamples)):
        statistic = absolute_draws(order[block])
        statistic *= scale[block]
        for row in statistic[::-1]:
            np.maximum(row, largest, out=row)
            largest = row
        exceedances[block] = np.count_nonzero(statistic >= thresholds[block], axis=1)
    p = np.empty(len(order))
    p[order] = np.maximum.accumulate((exceedances + 1) / (resamples + 1))
    return p


def _weights(absolute_draws: Callable[[NDArray[np.intp]], _Sums], resamples: int, pairs: int) -> FloatArray:
    """For each pair, 1 / RMS of its resamples; 0 if they are mere rounding errors."""
    square, all_pairs = np.empty(pairs), np.arange(pairs)
    for block in _blocks(pairs, resamples):
        square[block] = np.square(absolute_draws(all_pairs[block]), dtype=np.float64).sum(axis=1)
    root = np.sqrt(square / resamples)
    weights: FloatArray = np.divide(1.0, root, out=np.zeros_like(root), where=root > _ROUNDING)
    return weights


def _half_widths(flips: Flips, first: NDArray[np.intp], second: NDArray[np.intp], level: float) -> FloatArray:
    """The half-width of each pair's interval, by single-step maxT at this level."""

    def absolute_draws(selected: NDArray[np.intp]) -> _Sums:
        sizes: _Sums = np.abs(flips.centred[first[selected]] - flips.centred[second[selected]])
        return sizes

    resamples = flips.centred.shape[1]
    weights = _weights(absolute_draws, resamples, len(first))
    highest, all_pairs = np.zeros(resamples, np.float32), np.arange(len(first))
    scale = weights[:, None].astype(np.float32)
    for block in _blocks(len(first), resamples):
        np.maximum(highest, (absolute_draws(all_pairs[block]) * scale[block]).max(axis=0), out=highest)
    quantile = float(np.quantile(highest, 1 - level))
    unit = np.divide(1.0, weights, out=np.zeros_like(weights), where=weights > 0)
    half_widths: FloatArray = quantile * unit / math.sqrt(max(1, flips.users - 1) * flips.users)
    return half_widths


def _blocks(pairs: int, resamples: int) -> list[slice]:
    step = max(1, _AT_ONCE // resamples)
    return [slice(start, min(start + step, pairs)) for start in range(0, pairs, step)]


def smallest_detectable(spread: float, users: int, reach: float) -> float:
    """The true difference that is detected with 80% power: (reach + z of the power) · spread / √users.

    Args:
        spread: standard deviation of the per-user differences.
        reach: the family's reach in standard errors; 1.96 for a single comparison.
    """
    return float((reach + _NORMAL.inv_cdf(POWER)) * spread / math.sqrt(users))
