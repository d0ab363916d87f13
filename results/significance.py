"""Per-user values of the same users under several rankers → what their differences prove: intervals and adjusted p-values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]

LEVEL = 0.05  # of the whole family of comparisons
POWER = 0.8
_RESAMPLES = 9999
_CHUNK = 500  # resamples at once


@dataclass(frozen=True)
class Difference:
    """How much more the first has than the second, on average over the users.

    Attributes:
        mean: of the differences.
        p: two-sided, adjusted for all comparisons of its family.
    """

    mean: float
    p: float

    @property
    def proven(self) -> bool:
        return self.p < LEVEL


def mean_interval(values: FloatArray, seed: int = 0) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of the mean over users, [users] → (low, high)."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    found = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, batch=_CHUNK, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return float(found.low), float(found.high)


def standard_error(values: FloatArray) -> float:
    """Of the mean over users."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def differences(pairs: Sequence[tuple[FloatArray, FloatArray]], seed: int = 0) -> list[Difference]:
    """Each pair's mean difference over the same users; p-values hold for all pairs together.

    They come from a paired permutation test: under the hypothesis that two rankers are alike, the sign of each user's
    difference is a coin's. All pairs are flipped alike, and each is held against the largest standardised difference among
    those that are not rejected yet: Holm's steps, with the joint distribution in the place of Bonferroni's bound, so that
    pairs that go together cost less. Source: Westfall & Young, Resampling-Based Multiple Testing, 1993, algorithm 2.8
    (step-down maxT).

    Args:
        pairs: (first, second), each [users].
    """
    if not pairs:
        return []
    table = np.array([first - second for first, second in pairs])
    users = table.shape[1]
    # Sign flips keep the sum of squares, so dividing by its root standardises every resample alike.
    size = np.sqrt((table**2).sum(axis=1))
    scaled = np.divide(table, size[:, None], out=np.zeros_like(table), where=size[:, None] > 0)
    seen = np.abs(scaled.sum(axis=1))
    order = np.argsort(-seen, kind="stable")
    rng = np.random.default_rng(seed)
    reached = np.zeros(len(table))
    for start in range(0, _RESAMPLES, _CHUNK):
        signs = rng.integers(0, 2, (min(_CHUNK, _RESAMPLES - start), users)) * 2.0 - 1.0
        drawn = np.abs(signs @ scaled[order].T)
        largest_left = np.maximum.accumulate(drawn[:, ::-1], axis=1)[:, ::-1]
        reached += (largest_left >= seen[order] - 1e-12).sum(axis=0)
    adjusted = np.maximum.accumulate((reached + 1) / (_RESAMPLES + 1))
    p = np.empty(len(table))
    p[order] = adjusted
    return [Difference(float(row.mean()), float(value)) for row, value in zip(table, p, strict=True)]


def smallest_detectable(spread: float, users: int, comparisons: int) -> float:
    """The difference that a paired test on so many users finds with 80% power at 5% over so many comparisons.

    (z of 1 − level / (2 · comparisons) + z of the power) · spread / √users, with Bonferroni's level: an upper bound.

    Args:
        spread: standard deviation of the per-user differences.
    """
    z = stats.norm.ppf(1 - LEVEL / (2 * comparisons)) + stats.norm.ppf(POWER)
    return float(z * spread / math.sqrt(users))
