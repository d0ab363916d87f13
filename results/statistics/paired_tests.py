"""Per-user values of the same users under several rankers → differences with adjusted p-values and intervals."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from results.statistics.sign_flips import Flips, FloatArray, Ranker, Sums

LEVEL = 0.05  # the family-wise error rate
POWER = 0.8
_NORMAL = NormalDist()
_AT_ONCE = 250_000  # comparisons times resamples, computed at once: as many as a core's cache holds
_ROUNDING = 2e-5  # relative rounding error of a statistic in single precision


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


def mean_intervals(values: FloatArray, sizes: FloatArray | None = None) -> list[tuple[float, float]]:
    """The 95% percentile bootstrap interval of each ranker's mean over users, [rankers, users] → (low, high) of each.

    Where all users have the same value, as one user does, every resample is the same too and tells nothing. With a chance of
    2.5% or more, n users are all alike though a share of 1 - 0.025^(1/n) of all others is not: the interval holds what
    the mean then is, those others' values being from 0 to 1. For none or all of n it is that of Clopper and Pearson, The use
    of confidence or fiducial limits, Biometrika 1934.

    Args:
        sizes: each user's number of lists over their mean, [users]. A resample's values are then divided by what its users
            have of them: whoever has many lists counts for as many, in both.
    """
    users, means = values.shape[1], values.mean(axis=1)
    above = values if sizes is None else values - means[:, None] * sizes
    if users > 4000:  # from here on the bootstrap distribution is normal to three digits
        half_widths = _NORMAL.inv_cdf(0.975) * above.std(axis=1, ddof=1) / math.sqrt(users)
        lows, highs = means - half_widths, means + half_widths
    else:
        drawn = _redraws(users) @ values.T.astype(np.float32)
        if sizes is not None:
            drawn /= (_redraws(users) @ sizes.astype(np.float32))[:, None]
        lows, highs = np.quantile(drawn, [0.025, 0.975], axis=0)
    others = 1 - 0.025 ** (1 / users)
    alike = np.ptp(above, axis=1) < 1e-12  # but for rounding
    lows, highs = np.where(alike, means * (1 - others), lows), np.where(alike, means + (1 - means) * others, highs)
    return list(zip(lows.tolist(), highs.tolist(), strict=True))


@functools.lru_cache(maxsize=2)
def _redraws(users: int) -> Sums:
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

        def absolute_draws(selected: NDArray[np.intp]) -> Sums:
            sizes: Sums = np.abs(flips.drawn[first[selected]] - flips.drawn[second[selected]])
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

    table = flips.at_level.reshape(-1, flips.at_level.shape[2])
    rows = [level * len(flips.means) + ranker for level in (more, fewer) for ranker in (first, second)]

    def absolute_draws(selected: NDArray[np.intp]) -> Sums:
        more_first, more_second, fewer_first, fewer_second = (of_pairs[selected] for of_pairs in rows)
        sizes: Sums = table[more_first]
        sizes -= table[fewer_second]
        if len(unequal := np.flatnonzero(more_first != fewer_first)) == 0:
            return np.abs(sizes, out=sizes)
        reverse = table[more_second[unequal]]
        reverse -= table[fewer_first[unequal]]
        if len(unequal) == len(sizes):
            return np.maximum(sizes, reverse, out=sizes)
        np.maximum(sizes[unequal], reverse, out=reverse)
        np.abs(sizes, out=sizes)
        sizes[unequal] = reverse
        return sizes

    resamples, squares = flips.at_level.shape[2], np.empty(len(first))
    is_equal = fewer == more
    squares[is_equal] = _squared_distances(flips.at_level[flips.lengths, np.arange(len(flips.lengths))])[
        first[is_equal], second[is_equal]
    ]
    squares[~is_equal] = _sums_of_squares(absolute_draws, resamples, np.flatnonzero(~is_equal))
    is_rejected = _rejected(
        absolute_draws, resamples, mean * flips.users, _inverse_roots(squares / resamples), LEVEL / families
    )
    return [0, *(i for i in range(1, count) if not is_rejected[i - 1])]


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


def _stepped_down(absolute_draws: Callable[[NDArray[np.intp]], Sums], resamples: int, total: FloatArray) -> FloatArray:
    """Adjusted p-values.

    Args:
        absolute_draws: indices of pairs → their absolute resampled sums, [pairs, resamples].
        total: each pair's difference, summed over users.
    """
    order, thresholds, scale = _in_order(total, _weights(absolute_draws, resamples, len(total)))
    exceedances = np.empty(len(order), dtype=np.int64)
    behind = np.full(resamples, -np.inf, np.float32)  # the largest among the pairs that are not rejected before a block
    for block in reversed(_blocks(len(order), resamples)):
        statistic = absolute_draws(order[block]) * scale[block]
        exceedances[block] = _exceedances(statistic, behind, thresholds[block])
        behind = statistic[0]
    p = np.empty(len(order))
    p[order] = np.maximum.accumulate((exceedances + 1) / (resamples + 1))
    return p


def _rejected(
    absolute_draws: Callable[[NDArray[np.intp]], Sums],
    resamples: int,
    total: FloatArray,
    weights: FloatArray,
    level: float,
) -> NDArray[np.bool_]:
    """The pairs whose p-value by `_stepped_down` is below a level, found without all the others' p-values."""
    order, thresholds, scale = _in_order(total, weights)
    blocks = _blocks(len(order), resamples)
    behind = np.full((len(blocks) + 1, resamples), -np.inf, np.float32)  # the largest from each block on
    for number, block in reversed(list(enumerate(blocks))):
        statistic = absolute_draws(order[block]) * scale[block]
        behind[number] = np.maximum(behind[number + 1], statistic.max(axis=0))
    is_rejected = np.zeros(len(order), dtype=bool)
    for number, block in enumerate(blocks):
        exceedances = np.count_nonzero(behind[number] >= thresholds[block][-1])  # no pair of the block has more
        if (exceedances + 1) / (resamples + 1) >= level:
            statistic = absolute_draws(order[block]) * scale[block]
            p = (_exceedances(statistic, behind[number + 1], thresholds[block]) + 1) / (resamples + 1)
            if len(kept := np.flatnonzero(p >= level)):
                is_rejected[order[: block.start + kept[0]]] = True
                return is_rejected
    is_rejected[:] = True
    return is_rejected


def _in_order(total: FloatArray, weights: FloatArray) -> tuple[NDArray[np.intp], Sums, Sums]:
    """The pairs by their statistic, largest first; what counts as reaching it, and their weights, [pairs, 1] each."""
    observed = np.abs(total) * weights
    order = np.argsort(-observed, kind="stable")
    thresholds = (observed[order] * (1 - _ROUNDING) - _ROUNDING)[:, None].astype(np.float32)
    return order, thresholds, weights[order][:, None].astype(np.float32)


def _exceedances(statistic: Sums, behind: Sums, thresholds: Sums) -> NDArray[np.intp]:
    """In how many resamples a pair, or one after it, reaches the pair's threshold; [pairs].

    Args:
        statistic: [pairs, resamples]; becomes the largest of a pair's and those after it.
        behind: the largest of the pairs after these, [resamples].
    """
    for row in statistic[::-1]:
        np.maximum(row, behind, out=row)
        behind = row
    counts: NDArray[np.intp] = np.count_nonzero(statistic >= thresholds, axis=1)
    return counts


def _weights(absolute_draws: Callable[[NDArray[np.intp]], Sums], resamples: int, pairs: int) -> FloatArray:
    """For each pair, 1 / RMS of its resamples; 0 if they are mere rounding errors."""
    return _inverse_roots(_sums_of_squares(absolute_draws, resamples, np.arange(pairs)) / resamples)


def _sums_of_squares(
    absolute_draws: Callable[[NDArray[np.intp]], Sums], resamples: int, selected: NDArray[np.intp]
) -> FloatArray:
    sums = np.empty(len(selected))
    for block in _blocks(len(selected), resamples):
        draws = absolute_draws(selected[block])
        sums[block] = np.einsum("ij,ij->i", draws, draws)
    return sums


def _squared_distances(draws: Sums) -> FloatArray:
    """Between the resamples of any two rankers, by |a - b|² = |a|² + |b|² - 2ab; [rankers, rankers]."""
    exact = draws.astype(np.float64)
    products = exact @ exact.T
    squares = np.add.outer(np.diag(products), np.diag(products))
    distances: FloatArray = squares - 2 * products
    distances[distances < 1e-12 * squares] = 0.0
    return distances


def _inverse_roots(squares: FloatArray) -> FloatArray:
    root = np.sqrt(squares)
    weights: FloatArray = np.divide(1.0, root, out=np.zeros_like(root), where=root > _ROUNDING)
    return weights


def _half_widths(flips: Flips, first: NDArray[np.intp], second: NDArray[np.intp], level: float) -> FloatArray:
    """The half-width of each pair's interval, by single-step maxT at this level."""

    def absolute_draws(selected: NDArray[np.intp]) -> Sums:
        sizes: Sums = np.abs(flips.centred[first[selected]] - flips.centred[second[selected]])
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


def smallest_detectable(spread: float, users: int, reach: float, families: int = 1) -> float:
    """The true difference that is detected with 80% power: (reach + z of the power) · spread / √users.

    Infinite where not even a lead for every user is proven: of all ways to flip the signs of n users a share of 2 / 2^n keeps
    such a lead. 0 where the users do not differ, which tells nothing.

    Args:
        spread: standard deviation of the per-user differences.
        reach: the family's reach in standard errors; 1.96 for a single comparison.
        families: the number of families that share the level, including this one.
    """
    if families * 2.0 ** (1 - users) >= LEVEL:
        return math.inf
    return float((reach + _NORMAL.inv_cdf(POWER)) * spread / math.sqrt(users))
