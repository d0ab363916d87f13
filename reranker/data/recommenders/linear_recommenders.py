"""Sequences → a fitted linear recommender, which scores the catalogue after a history without a language model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from reranker.data.interactions import ItemCodes

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
History = Sequence[int] | NDArray[np.integer]

MOST_ITEMS = {"ease": 8_000}  # it inverts an [items, items] matrix
_NEIGHBOURS = 100
_EASE_L2 = 200.0
_BLOCK_CELLS = 2**22  # scores of whole catalogues at once: 32 MB, and some copies


@dataclass(frozen=True, eq=False)
class Recommender:
    """A linear model: an item's score is the sum of the history items' weights for it, plus its prior.

    Attributes:
        weights: [items, items], a row for each item of the history; [items, features] if there are `features`.
        prior: [items].
        latest: how many of the history's latest items count; None: all.
        features: [items, features]; the weights of an item's features, summed, are the weight for the item.
    """

    weights: csr_matrix | FloatArray
    prior: FloatArray
    latest: int | None = None
    features: csr_matrix | FloatArray | None = None

    def scores(self, histories: Sequence[History]) -> FloatArray:
        """Scores of every item, [histories, items]. The caller limits the number of histories, see `blocks`."""
        item_scores = self._said(histories)
        scores: FloatArray = item_scores if isinstance(item_scores, np.ndarray) else item_scores.toarray()
        scores += self.prior
        return scores

    def scores_of(self, histories: Sequence[History], candidates: IntArray) -> FloatArray:
        """Scores of each history's candidates, [histories, candidates], as in `scores`."""
        scores = self.prior[candidates]
        for rows in blocks(len(histories), len(self.prior)):
            item_scores = self._said(histories[rows])
            picked = item_scores[np.arange(rows.stop - rows.start)[:, None], candidates[rows]]
            scores[rows] += picked if isinstance(picked, np.ndarray) else picked.toarray()
        return scores

    def _said(self, histories: Sequence[History]) -> csr_matrix | FloatArray:
        shown = histories if self.latest is None else [history[-self.latest :] for history in histories]
        summed = incidence(shown, len(self.prior)) @ self.weights
        return summed if self.features is None else summed @ self.features.T


def popularity(sequences: Sequence[ItemCodes], items: int) -> Recommender:
    """How many users touched the item, regardless of the history."""
    return Recommender(csr_matrix((items, items)), counts(sequences, items).astype(np.float64))


def markov(sequences: Sequence[ItemCodes], items: int) -> Recommender:
    """How often the item directly followed the last item of the history, in the sequences of all users.

    Popularity breaks ties, also between items without transitions: the item's share of all interactions, below one
    transition, is added.

    >>> sequences = [np.array([0, 1, 2]), np.array([0, 1]), np.array([2, 1])]
    >>> markov(sequences, items=3).scores([np.array([0])]).round(3)  # item 1 followed item 0 twice
    array([[0.25 , 2.375, 0.25 ]])
    """
    before = np.concatenate([sequence[:-1] for sequence in sequences])
    after = np.concatenate([sequence[1:] for sequence in sequences])
    followed = csr_matrix((np.ones(len(before)), (before, after)), shape=(items, items))
    popular = counts(sequences, items)
    return Recommender(followed, popular / (popular.sum() + 1), latest=1)


def item_knn(sequences: Sequence[ItemCodes], items: int) -> Recommender:
    """The item's summed similarity to the items of the history, based on shared users, weighted by BM25."""
    from implicit.nearest_neighbours import BM25Recommender  # takes a second

    model = BM25Recommender(K=_NEIGHBOURS, num_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from inside the library
        model.fit(incidence(sequences, items), show_progress=False)
    return Recommender(model.similarity.tocsr(), np.zeros(items))


def ease(sequences: Sequence[ItemCodes], items: int) -> Recommender:
    """A linear autoencoder over the items of the history, without self-similarity, in closed form.

    Source: Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019, equation 8. Inverts an [items, items]
    matrix: seconds for thousands of items, minutes and gigabytes for tens of thousands.
    """
    user_items = incidence(sequences, items)
    gram = (user_items.T @ user_items).toarray().astype(np.float64)
    gram[np.diag_indices(items)] += _EASE_L2
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    weights[np.diag_indices(items)] = 0
    return Recommender(weights, np.zeros(items))


RECOMMENDERS: dict[str, Callable[[Sequence[ItemCodes], int], Recommender]] = {
    "popularity": popularity,
    "markov": markov,
    "item_knn": item_knn,
    "ease": ease,
}


def fitted(name: str, sequences: Sequence[ItemCodes], items: int, *, on_known: bool = False) -> Recommender:
    """The recommender of this name.

    Args:
        on_known: fit it on the items of the sequences alone, as though there were no others: the statistics of a catalogue
            must not hold what appears later.
    """
    known_items = np.flatnonzero(counts(sequences, items)) if on_known else np.arange(items)
    if len(known_items) == items:
        return RECOMMENDERS[name](sequences, items)
    codes = np.zeros(items, dtype=np.int32)
    codes[known_items] = np.arange(len(known_items))
    small = RECOMMENDERS[name]([codes[sequence] for sequence in sequences], len(known_items))
    prior = np.zeros(items)
    prior[known_items] = small.prior
    weights = csr_matrix(small.weights).tocoo()
    whole = csr_matrix((weights.data, (known_items[weights.row], known_items[weights.col])), shape=(items, items))
    is_sparse = isinstance(small.weights, csr_matrix)
    return Recommender(whole if is_sparse else whole.toarray(), prior, small.latest)


def counts(sequences: Sequence[ItemCodes], items: int) -> IntArray:
    """How many users touched each item."""
    return np.bincount(np.concatenate(list(sequences)), minlength=items)


def blocks(rows: int, items: int) -> Iterator[slice]:
    """Slices of the rows, each small enough to score over the whole catalogue at once."""
    step = max(1, _BLOCK_CELLS // items)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def incidence(rows: Sequence[History], items: int) -> csr_matrix:
    """[rows, items], 1 where the row holds the item; rows have no repeats."""
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    columns = np.concatenate([np.asarray(row, dtype=np.int32) for row in rows])
    matrix = csr_matrix((np.ones(len(columns), np.float32), columns, starts), shape=(len(rows), items))
    matrix.sort_indices()  # so that a sum does not depend on the order of the history
    return matrix
