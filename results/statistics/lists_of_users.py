"""Values per list → values per user, since two lists of one user are no two users.

A user's value is the total over its lists, times users / lists. So the mean over users is the mean over all lists, as
the leaderboard shows it, and whatever draws, flips or counts users takes all lists of one together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from reranker.metrics import FloatArray
from results.statistics.paired_tests import mean_intervals, standard_error
from results.statistics.sign_flips import Ranker


@dataclass(frozen=True, eq=False)
class ListsOfUsers:
    """Whose the lists are.

    Attributes:
        first: where each user's lists begin, int [users]; a user's lists follow each other.
        lists: how many there are.
    """

    first: NDArray[np.intp]
    lists: int

    @staticmethod
    def of(user_ids: Sequence[str]) -> ListsOfUsers:
        """Of each list's user, in ascending order of the ids."""
        ids = np.array(user_ids, dtype=object)
        begins = np.append(True, ids[1:] != ids[:-1]) if len(ids) else np.empty(0, dtype=np.bool_)
        return ListsOfUsers(np.flatnonzero(begins), len(ids))

    def __len__(self) -> int:
        return len(self.first)

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """Whose each list is, by the user's number, [lists]."""
        return np.repeat(np.arange(len(self)), np.diff(self.first, append=self.lists))

    def on(self, lists: NDArray[np.bool_]) -> ListsOfUsers:
        """Of a part of the lists, [lists]; users without any are left out."""
        kept = np.add.reduceat(lists, self.first, dtype=np.intp) if len(self) else self.first
        kept = kept[kept > 0]
        return ListsOfUsers(np.cumsum(kept) - kept, int(lists.sum()))

    def totals(self, values: FloatArray) -> FloatArray:
        """[..., lists] → [..., users]."""
        if self.lists == len(self):
            return values
        total: FloatArray = np.add.reduceat(values, self.first, axis=-1) * (len(self) / self.lists)
        return total

    def ranker(self, ranker: Ranker) -> Ranker:
        """A ranker of lists as one of users."""
        return Ranker(tuple(self.totals(run) for run in ranker.runs), ranker.chosen, ranker.trained)

    @cached_property
    def sizes(self) -> FloatArray:
        """Each user's number of lists over the mean number, [users]."""
        return self.totals(np.ones(self.lists))

    def interval(self, values: FloatArray) -> tuple[float, float]:
        """The 95% interval of the mean of values per list, [lists]; see `mean_intervals`."""
        [interval] = self.intervals(values[None])
        return interval

    def intervals(self, values: FloatArray) -> list[tuple[float, float]]:
        """The same of several rankers, [rankers, lists]."""
        return mean_intervals(self.totals(values), None if self.lists == len(self) else self.sizes)

    def error(self, values: FloatArray) -> float:
        """The standard error of the mean of values per list, [lists].

        That of a ratio, total over number of lists: of what a user's lists have above the mean. Source: Cochran,
        Sampling Techniques, 1977, section 6.4, without the correction for finite populations.
        """
        if self.lists == len(self):
            return standard_error(values)
        return standard_error(self.totals(values - values.mean()))
