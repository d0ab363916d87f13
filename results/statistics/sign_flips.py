"""Per-user values under several rankers, with all their reports → their means in resamples in which no ranker differs."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Sums = NDArray[np.float32]

RESAMPLES, FEWER = 9999, 2999  # 2,999 are enough for "p < 0.001" if two families share the level
_DECIDING = 999  # resamples for a yes or no
_MANY = 5_000_000  # values in all reports together; above this, fewer resamples
_CHUNK = 500  # resamples computed at once
_BEHIND = 3.0  # standard errors behind the best report; reports further back could not have been chosen by luck


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
    drawn: Sums
    centred: Sums
    levels: list[int]
    at_level: Sums
    lengths: NDArray[np.intp]

    @staticmethod
    def of(rankers: Sequence[Ranker], seed: int = 0, resamples: int | None = None, *, ties: bool = True) -> Flips:
        """Draw the resamples.

        Args:
            resamples: None for 9,999, or 2,999 if there are many values.
            ties: whether `tied` is to be asked; otherwise there is nothing `at_level`.
        """
        values = np.array([ranker.values for ranker in rankers])
        mean_values = values.mean(axis=0)  # cancels in every difference; without it, single precision is more exact
        levels = _levels(rankers)
        pools = _Pools.of(rankers, levels, mean_values)
        table, users = pools.table.astype(np.float32), values.shape[1]
        means = pools.table.mean(axis=1).astype(np.float32)[:, None]
        resamples = resamples or (RESAMPLES if pools.reports * users <= _MANY else FEWER)
        drawn, few = np.empty((len(rankers), resamples), np.float32), min(resamples, _DECIDING) if ties else 0
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
class _Choices:
    """Runs with equally many reports to choose from.

    Attributes:
        runs: their numbers, [runs].
        rows: each report's row of the table, that of the run's last report for a missing one, [runs, reports].
        changes: the row of what is added to it, 0 for nothing, [runs, reports].
    """

    runs: NDArray[np.intp]
    rows: NDArray[np.intp]
    changes: NDArray[np.intp]

    def best(self, sums: Sums) -> Sums:
        """The largest of each run's sums, [runs, resamples]; ten times as fast as maximum.reduceat."""
        best: Sums | None = None
        for rows, changes in zip(self.rows.T, self.changes.T, strict=True):
            reached = sums[rows]
            if changes.any():
                reached += sums[changes]
            best = reached if best is None else np.maximum(best, reached, out=best)
        assert best is not None
        return best


@dataclass(frozen=True, eq=False)
class _Pools:
    """The reports that each run may choose from, at each level. All runs are extended to the longest.

    Attributes:
        table: a row of zeros; the reports of all runs, and the changes that longer runs lend to shorter ones,
            [rows, users].
        reports: the number of reports of all runs together, lent ones included.
        choices: at each level, those of all runs.
        first_run: where each ranker's runs begin.
        counts: each ranker's number of runs, [rankers, 1].
    """

    table: FloatArray
    reports: int
    choices: list[list[_Choices]]
    first_run: NDArray[np.intp]
    counts: NDArray[np.intp]

    @staticmethod
    def of(rankers: Sequence[Ranker], levels: Sequence[int], mean_values: FloatArray) -> _Pools:
        """The pools of all rankers; `mean_values` [users] is subtracted from every report."""
        longest = [run for ranker in rankers if ranker.trained for run in ranker.runs if len(run) >= levels[-1]]
        parts: list[FloatArray] = [np.zeros((1, len(mean_values)))]
        height, reports = 1, 0
        lent: dict[tuple[int, int], int] = {}  # where the changes of a longer run after so many reports begin
        pools: list[list[tuple[NDArray[np.intp], NDArray[np.intp]]]] = [[] for _ in levels]
        for ranker in rankers:
            for run in ranker.runs:
                begin, count, lender = height, len(run), (0, 0)
                parts.append(run - mean_values)
                height += count
                total = max(count, levels[-1]) if ranker.trained else count
                if total > count:
                    lender = (len(pools[0]) % len(longest), count)
                    if lender not in lent:
                        lent[lender] = height
                        parts.append(_changes(longest[lender[0]], count))
                        height += len(parts[-1])
                reports += total
                for place, level in enumerate(levels):
                    chosen = _rivals(run, level if ranker.trained else count, total)
                    is_own = chosen < count
                    rows = begin + np.minimum(chosen, count - 1)
                    pools[place].append((rows, np.where(is_own, 0, lent.get(lender, 0) + chosen - count)))
        counts = np.array([len(ranker.runs) for ranker in rankers])
        choices = [_of_equal_size(of_runs) for of_runs in pools]
        return _Pools(np.concatenate(parts), reports, choices, np.cumsum([0, *counts])[:-1], counts[:, None])

    def best(self, sums: Sums, level: int) -> Sums:
        """Each ranker's mean over its runs' largest sums, [rankers, resamples]."""
        best = np.empty((int(self.counts.sum()), sums.shape[1]), sums.dtype)
        for choices in self.choices[level]:
            best[choices.runs] = choices.best(sums)
        if len(best) == len(self.counts):
            return best
        total: Sums = np.add.reduceat(best, self.first_run, axis=0)
        total /= self.counts
        return total


def _of_equal_size(pools: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]]) -> list[_Choices]:
    """The (rows, changes) of all runs, by how many there are of a run."""
    sizes = np.array([len(rows) for rows, _ in pools])
    groups = (np.flatnonzero(sizes == size) for size in np.unique(sizes).tolist())
    return [
        _Choices(runs, *(np.array([pools[run][part] for run in runs.tolist()]) for part in (0, 1))) for runs in groups
    ]


def _changes(longer: FloatArray, count: int) -> FloatArray:
    """What a run changes after so many reports, without its mean over users: a shorter run lacks these reports."""
    changes = longer[count:] - longer[count - 1]
    without_mean: FloatArray = changes - changes.mean(axis=1, keepdims=True)
    return without_mean


def _rivals(run: FloatArray, level: int, total: int) -> NDArray[np.intp]:
    """Indices of the run's first reports that luck could have chosen, and of its missing reports at this level."""
    reports = run[:level]
    deficits = reports[reports.mean(axis=1).argmax()] - reports
    error = deficits.std(axis=1, ddof=min(1, run.shape[1] - 1)) / math.sqrt(run.shape[1])
    rivals = np.flatnonzero(deficits.mean(axis=1) <= _BEHIND * error)
    return np.concatenate([rivals, np.arange(len(reports), min(level, total))])
