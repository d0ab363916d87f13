"""Scores of the candidates → ranks of the targets → recall_at_k, ndcg_at_k, mrr_at_k, with ties counted exactly.

Each list has one relevant item. If the target ties with others, a metric is its exact expectation over a uniformly
random order of the tied candidates, so a constant scorer gets exactly the value of chance. The mean rank is not
enough: NDCG of a mean rank is not the mean NDCG.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NOWHERE = 2**31 - 1  # `greater` of a target that is not in its list: beyond any cut


@dataclass(frozen=True, eq=False)
class Ranks:
    """The rank of each list's target: uniformly one of greater + 1 … greater + ties + 1.

    Attributes:
        greater: int64 [lists], candidates that score higher than the target; NOWHERE if the list lacks it.
        ties: int64 [lists], other candidates that score the same.
    """

    greater: IntArray
    ties: IntArray

    @property
    def expected(self) -> FloatArray:
        """Mean rank over the order of the ties, [lists]; 1 is best."""
        return self.greater + 1 + self.ties / 2

    @property
    def found(self) -> NDArray[np.bool_]:
        """Whether the list holds its target, [lists]."""
        is_found: NDArray[np.bool_] = self.greater < NOWHERE
        return is_found

    def of(self, lists: NDArray[np.bool_]) -> Ranks:
        """The ranks of the lists selected by a mask, [lists]."""
        return Ranks(self.greater[lists], self.ties[lists])


@dataclass(frozen=True, eq=False)
class Picks:
    """Which label a ranker put first in each list, the position of the right one, and the ranker's confidence.

    Attributes:
        target: int64 [lists], position of the true item's label; -1 if the list lacks it.
        first: int64 [lists], position of the label scored highest, the first one if several tie.
        probability: float64 [lists], of that label, by the softmax over the list's labels.
    """

    target: IntArray
    first: IntArray
    probability: FloatArray


def ranks_of_target(scores: ArrayLike, targets: ArrayLike, behind: ArrayLike = NOWHERE) -> Ranks:
    """Rank the target of each list among its candidates, highest score first.

    NaN never wins: candidates scored NaN rank behind all others, and a target scored NaN ranks last.

    Args:
        scores: [lists, candidates]; compared in the precision they come in.
        targets: int [lists], column of each list's target; -1 if the list lacks it.
        behind: int [lists], or one for all: how many come before a target that its list lacks; NOWHERE: it is a miss at
            every cut.

    Raises:
        ValueError: the shapes don't fit, or a target isn't a column.

    >>> ranks_of_target([[0.1, 0.7, 0.2], [0.5, 0.5, 0.5]], [2, 0]).expected  # one is better; two tie with it
    array([2., 2.])
    """
    table = np.asarray(scores)
    columns = np.asarray(targets, dtype=np.int64)
    if table.ndim != 2 or columns.shape != table.shape[:1]:
        raise ValueError(f"scores must be [lists, candidates] and targets [lists], got {table.shape}, {columns.shape}")
    if columns.size and (columns.min() < -1 or columns.max() >= table.shape[1]):
        raise ValueError(f"targets must be columns 0…{table.shape[1] - 1}, got {columns.min()}…{columns.max()}")
    target_scores = table[np.arange(len(table)), columns, None]
    is_nan, missing = np.isnan(target_scores[:, 0]), columns == -1
    greater = np.where(is_nan, table.shape[1] - 1, (table > target_scores).sum(axis=1))
    ties = np.where(is_nan | missing, 0, (table == target_scores).sum(axis=1) - 1)
    return Ranks(np.where(missing, behind, greater).astype(np.int64), ties.astype(np.int64))


def picks(log_probabilities: ArrayLike, targets: ArrayLike) -> Picks:
    """What ranks first in each list. NaN never does, unless all scores of a list are NaN; they then tie.

    Args:
        log_probabilities: [lists, candidates], up to a constant per list.
        targets: int [lists], as in `ranks_of_target`.
    """
    table = np.asarray(log_probabilities, dtype=np.float64)
    table = np.where(np.isnan(table), -np.inf, table)
    top = table.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        shares = np.where(table == top, 1.0, np.exp(table - top))
    first = table.argmax(axis=1)
    probability: FloatArray = 1 / shares.sum(axis=1)
    return Picks(np.asarray(targets, dtype=np.int64), first.astype(np.int64), probability)


def _mean_gain(ranks: Ranks, gains: FloatArray) -> FloatArray:
    """Mean of gains[rank - 1] over the possible ranks of a target; gains are 0 beyond the cut.

    With G(m) = Σ_{r≤m} gains: (G(greater + ties + 1) − G(greater)) / (ties + 1).
    """
    total = np.concatenate([[0.0], np.cumsum(gains)])
    cut = len(gains)
    first, last = np.minimum(ranks.greater, cut), np.minimum(ranks.greater + ranks.ties + 1, cut)
    result: FloatArray = (total[last] - total[first]) / (ranks.ties + 1)
    return result


def recall_at_k(ranks: Ranks, k: int) -> FloatArray:
    """Probability that the target is among the first k, [lists]. With one relevant item this is also hit@k."""
    return _mean_gain(ranks, np.ones(k))


def ndcg_at_k(ranks: Ranks, k: int) -> FloatArray:
    """1 / log2(rank + 1) within the first k, else 0, [lists]; the ideal DCG of one relevant item is 1.

    Source: Järvelin & Kekäläinen, ACM TOIS 20(4), 2002, in the form with log2(rank + 1).

    >>> ndcg_at_k(Ranks(greater=np.array([0, 1, 10]), ties=np.array([0, 0, 0])), 10).round(3)
    array([1.   , 0.631, 0.   ])
    """
    return _mean_gain(ranks, 1 / np.log2(np.arange(1, k + 1) + 1))


def mrr_at_k(ranks: Ranks, k: int) -> FloatArray:
    """1 / rank within the first k, else 0, [lists]."""
    return _mean_gain(ranks, 1 / np.arange(1, k + 1))


METRICS: dict[str, tuple[Callable[[Ranks, int], FloatArray], int]] = {
    "recall_at_1": (recall_at_k, 1),
    "recall_at_5": (recall_at_k, 5),
    "recall_at_10": (recall_at_k, 10),
    "ndcg_at_5": (ndcg_at_k, 5),
    "ndcg_at_10": (ndcg_at_k, 10),
    "mrr_at_10": (mrr_at_k, 10),
}
METRIC_NAMES = tuple(METRICS)


def values_of(ranks: Ranks, metric: str) -> FloatArray:
    """A metric of `METRIC_NAMES`, one value per list."""
    measure, k = METRICS[metric]
    return measure(ranks, k)


def per_list(ranks: Ranks) -> dict[str, FloatArray]:
    """Every metric of `METRIC_NAMES`, one value per list, for paired comparisons."""
    return {name: metric(ranks, k) for name, (metric, k) in METRICS.items()}


def summarise(ranks: Ranks) -> dict[str, float]:
    """Mean of every metric of `METRIC_NAMES` over the lists.

    Raises:
        ValueError: there is no list to average over.
    """
    if not len(ranks.greater):
        raise ValueError("metrics need at least one list")
    return {name: float(values.mean()) for name, values in per_list(ranks).items()}


def chance(n: int) -> dict[str, float]:
    """The values of a random scorer on lists of n: k/n, (1/n) Σ_{r≤k} 1/log2(r+1), H_k/n, with k ≤ n.

    >>> round(chance(20)["recall_at_1"], 3), round(chance(20)["ndcg_at_10"], 3)
    (0.05, 0.227)
    """
    return summarise(Ranks(np.array([0]), np.array([n - 1])))


def is_loss(metric: str) -> bool:
    """Whether the metric is minimised; all others are maximised."""
    return metric.endswith("_loss")
