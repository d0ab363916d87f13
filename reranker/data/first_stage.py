"""A recommender's name and sequences → the items that it fetches after a history, best first: what is reranked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.data.interactions import ItemCodes, Split, Touched
from reranker.data.recommenders import MOST_ITEMS, RECOMMENDERS, History, IntArray, Recommender, blocks, counts
from reranker.errors import Fault, InputError

NOTHING = -1  # in the place of an item where the catalogue has no more
_POOL = 100  # items that hard negatives are drawn from


class Retriever:
    """The first stage: a recommender that is fitted when it is first asked.

    What it fetches has one order: by score, among equals by popularity, then by code. A copy in another process fits its
    own, which is cheaper than sending the weights.
    """

    def __init__(self, name: str, sequences: Sequence[ItemCodes], items: int) -> None:
        """Raises InputError: the catalogue is too large for this recommender."""
        most = MOST_ITEMS.get(name, items)
        if items > most:
            rule = f"{name} must not have more than {most:,} items; there are {items:,}"
            raise InputError([Fault(rule, field="data.retriever", value=name, hint="take another, or raise min_item")])
        self._name, self._sequences, self._items = name, sequences, items

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_fitted", "_by_popularity")}

    @cached_property
    def _fitted(self) -> Recommender:
        return RECOMMENDERS[self._name](self._sequences, self._items)

    @cached_property
    def _by_popularity(self) -> IntArray:
        return np.argsort(-counts(self._sequences, self._items), kind="stable")

    def top(self, histories: Sequence[History], count: int, left_out: Sequence[History]) -> ItemCodes:
        """The best `count` items for each history, int32 [histories, count]; NOTHING where no more are left.

        Args:
            left_out: for each history the items that are not fetched.
        """
        found = np.full((len(histories), count), NOTHING, dtype=np.int32)
        order = self._by_popularity
        for rows in blocks(len(histories), self._items):
            scores = self._fitted.scores(histories[rows])
            for row, items in zip(scores, left_out[rows], strict=True):
                row[np.asarray(items, dtype=np.int64)] = -np.inf
            scores = scores[:, order]
            places = _first(scores, min(count, self._items))
            best = np.take_along_axis(scores, places, axis=1)
            found[rows, : places.shape[1]] = np.where(best == -np.inf, NOTHING, order[places])
        return found


class HardNegatives:
    """For prefixes of training sequences, the retriever's best items among those that the user never touched.

    They are fetched when a prefix is first asked for, and stay in this process alone: 400 bytes a prefix.
    """

    def __init__(self, retriever: Retriever, split: Split, touched: Touched) -> None:
        self._retriever, self._train, self._touched = retriever, split.train, touched
        self._longest = max(len(sequence) for sequence in split.train)
        self._known: IntArray = np.empty(0, dtype=np.int64)
        self._fetched: ItemCodes = np.empty((0, _POOL), dtype=np.int32)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": self._known[:0], "_fetched": self._fetched[:0]}

    def of(self, prefixes: IntArray) -> ItemCodes:
        """int32 [prefixes, 100], best first, NOTHING at the end where there are fewer.

        Args:
            prefixes: [prefixes, 2], user and position; the items before the position are the history.
        """
        keys = prefixes[:, 0] * self._longest + prefixes[:, 1]
        new = np.setdiff1d(keys, self._known)
        if len(new):
            users, positions = np.divmod(new, self._longest)
            histories = [self._train[u][:p] for u, p in zip(users.tolist(), positions.tolist(), strict=True)]
            fetched = self._retriever.top(histories, _POOL, [self._touched.of(user) for user in users.tolist()])
            known = np.concatenate([self._known, new])
            order = np.argsort(known)
            self._known, self._fetched = known[order], np.concatenate([self._fetched, fetched])[order]
        return self._fetched[np.searchsorted(self._known, keys)]


def _first(scores: NDArray[np.float64], count: int) -> IntArray:
    """Columns of the `count` highest scores of each row, highest first, equal ones from left to right."""
    least = -np.partition(-scores, count - 1, axis=1)[:, count - 1 : count]
    chosen = scores >= least
    full = np.flatnonzero(chosen.sum(axis=1) > count)  # of the lowest score there are more than have room
    above, level = scores[full] > least[full], scores[full] == least[full]
    room = count - above.sum(axis=1, keepdims=True)
    chosen[full] = above | (level & (np.cumsum(level, axis=1, dtype=np.int32) <= room))
    columns = np.nonzero(chosen)[1].reshape(len(scores), count)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)
