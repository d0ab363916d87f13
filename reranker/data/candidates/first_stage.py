"""A recommender's name, sequences and item texts → the items to rerank after a history, best first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.data.interactions import ItemCodes, Touched
from reranker.data.recommenders.linear_recommenders import (
    MOST_ITEMS,
    RECOMMENDERS,
    History,
    IntArray,
    Recommender,
    blocks,
    counts,
    fitted,
)
from reranker.data.recommenders.text_recommenders import bm25, dense
from reranker.data.split import Split
from reranker.errors import Fault, InputError

NOTHING = -1  # fills the places for which the catalogue has no more items
_POOL = 100  # items that hard negatives are drawn from
Known = NDArray[np.bool_] | None


def check_items(name: str, items: int) -> None:
    """
    Raises:
        InputError: there are too many items for this recommender.
    """
    most = MOST_ITEMS.get(name, items)
    if items > most:
        rule = f"{name} must not have more than {most:,} items; there are {items:,}"
        raise InputError([Fault(rule, field="data.retriever", value=name, hint="take another, or raise min_item")])


def recommender(
    name: str, sequences: Sequence[ItemCodes], texts: Sequence[str], dense_model: str | None, *, on_known: bool = False
) -> Recommender:
    """Fit a recommender of sequences or of texts by its name.

    Args:
        texts: of the items.
        dense_model: the sentence encoder of `dense`.
        on_known: see `reranker.data.recommenders.linear_recommenders.fitted`.

    Raises:
        InputError: the catalogue is too large for it, or its texts are of no use to it.
        EnvironmentFault: the encoder can't be loaded.
    """
    check_items(name, len(texts))
    if name in RECOMMENDERS:
        return fitted(name, sequences, len(texts), on_known=on_known)
    if name == "bm25":
        return bm25(texts, counts(sequences, len(texts)) > 0 if on_known else None)
    if dense_model is None:
        raise InputError([Fault("dense needs a sentence encoder", field="data.dense_model")])
    return dense(texts, dense_model)


class Retriever:
    """The first stage: a recommender, fitted on first use.

    Its order is unique: by score, then by popularity, then by code. A copy in another process is fitted again there,
    which is cheaper than sending the weights. But for `dense`: an encoder may give other numbers on another machine.
    """

    def __init__(
        self,
        name: str,
        sequences: Sequence[ItemCodes],
        texts: Sequence[str],
        dense_model: str | None = None,
        *,
        on_known: bool = False,
    ) -> None:
        """See `recommender`.

        Raises:
            InputError, EnvironmentFault: it can't be fitted on this catalogue.
        """
        check_items(name, len(texts))
        self._name, self._sequences, self._texts, self._dense_model = name, sequences, texts, dense_model
        self._items, self._on_known = len(texts), on_known
        if name not in RECOMMENDERS:
            _ = self._fitted  # so that what is wrong with texts or encoder is told at once

    def __getstate__(self) -> dict[str, Any]:
        left_out = {"_fitted", "_by_popularity"} - ({"_fitted"} if self._name == "dense" else set())
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    @cached_property
    def _fitted(self) -> Recommender:
        return recommender(self._name, self._sequences, self._texts, self._dense_model, on_known=self._on_known)

    @cached_property
    def _by_popularity(self) -> IntArray:
        return np.argsort(-counts(self._sequences, self._items), kind="stable")

    def top(
        self, histories: Sequence[History], count: int, left_out: Sequence[History], known: Known = None
    ) -> ItemCodes:
        """The best `count` items for each history, int32 [histories, count]; NOTHING if there are no more.

        Args:
            left_out: for each history, the items not to fetch.
            known: the items that there are, [items]; None: all.
        """
        fetched = np.full((len(histories), count), NOTHING, dtype=np.int32)
        order = self._by_popularity
        for rows in blocks(len(histories), self._items):
            scores = self._scores(histories[rows], left_out[rows], known)[:, order]
            places = _first(scores, min(count, self._items))
            best = np.take_along_axis(scores, places, axis=1)
            fetched[rows, : places.shape[1]] = np.where(best == -np.inf, NOTHING, order[places])
        return fetched

    def before(
        self, histories: Sequence[History], targets: ItemCodes, left_out: Sequence[History], known: Known = None
    ) -> IntArray:
        """How many items come before each history's target in the order of `top`, int64 [histories].

        Args:
            targets: known items that are not left out.
        """
        place = np.empty(self._items, dtype=np.int64)
        place[self._by_popularity] = np.arange(self._items)
        places = np.empty(len(histories), dtype=np.int64)
        for rows in blocks(len(histories), self._items):
            scores = self._scores(histories[rows], left_out[rows], known)
            of_target = np.take_along_axis(scores, targets[rows, None].astype(np.int64), axis=1)
            is_tied = (scores == of_target) & (place < place[targets[rows], None])
            places[rows] = ((scores > of_target) | is_tied).sum(axis=1)
        return places

    def _scores(self, histories: Sequence[History], left_out: Sequence[History], known: Known) -> NDArray[np.float64]:
        """Of every item, [histories, items]; minus infinity of those that are not to be fetched."""
        scores = self._fitted.scores(histories)
        if known is not None:
            scores[:, ~known] = -np.inf
        for row, items in zip(scores, left_out, strict=True):
            row[np.asarray(items, dtype=np.int64)] = -np.inf
        return scores


class HardNegatives:
    """For prefixes of training sequences, the retriever's best items that the user never touched.

    They are fetched on a prefix's first use, and cached in this process only: 400 bytes per prefix.
    """

    def __init__(self, retriever: Retriever, split: Split, touched: Touched, items: int) -> None:
        self._retriever, self._train, self._touched = retriever, split.train, touched
        self._known_items = split.known("train", items)
        self._longest = max(len(sequence) for sequence in split.train)
        self._known: IntArray = np.empty(0, dtype=np.int64)
        self._fetched: ItemCodes = np.empty((0, _POOL), dtype=np.int32)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": self._known[:0], "_fetched": self._fetched[:0]}

    def of(self, prefixes: IntArray) -> ItemCodes:
        """The items, int32 [prefixes, 100], best first; NOTHING at the end if there are fewer.

        Args:
            prefixes: [prefixes, 2], user and position; the items before the position are the history.
        """
        keys = prefixes[:, 0] * self._longest + prefixes[:, 1]
        new = np.setdiff1d(keys, self._known)
        if len(new):
            users, positions = np.divmod(new, self._longest)
            histories = [self._train[u][:p] for u, p in zip(users.tolist(), positions.tolist(), strict=True)]
            touched = [self._touched.of(user) for user in users.tolist()]
            fetched = self._retriever.top(histories, _POOL, touched, self._known_items)
            known_keys = np.concatenate([self._known, new])
            order = np.argsort(known_keys)
            self._known, self._fetched = known_keys[order], np.concatenate([self._fetched, fetched])[order]
        return self._fetched[np.searchsorted(self._known, keys)]


def _first(scores: NDArray[np.float64], count: int) -> IntArray:
    """Columns of each row's `count` highest scores, highest first, ties from left to right."""
    least = -np.partition(-scores, count - 1, axis=1)[:, count - 1 : count]
    chosen = scores >= least
    overfull = np.flatnonzero(chosen.sum(axis=1) > count)  # more ties at the lowest score than there is room for
    above, level = scores[overfull] > least[overfull], scores[overfull] == least[overfull]
    room = count - above.sum(axis=1, keepdims=True)
    chosen[overfull] = above | (level & (np.cumsum(level, axis=1, dtype=np.int32) <= room))
    columns = np.nonzero(chosen)[1].reshape(len(scores), count)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)
