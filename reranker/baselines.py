"""Sequences before the target → rankers without a language model, and the ranks that they give the same lists."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix

from reranker.candidates import Example
from reranker.interactions import Interactions, ItemCodes, Split
from reranker.metrics import FloatArray, IntArray, Ranks, ranks_of_target

_NEIGHBOURS = 100
_EASE_L2 = 200.0
_MOST_ITEMS = 8_000  # for EASE

Baseline = Callable[[Sequence[ItemCodes], int, Sequence[Example]], FloatArray]


def random(sequences: Sequence[ItemCodes], items: int, examples: Sequence[Example]) -> FloatArray:
    """The same score for all: the metrics of a full tie are the exact expectation of a random order."""
    return np.zeros(_candidates(examples).shape)


def popularity(sequences: Sequence[ItemCodes], items: int, examples: Sequence[Example]) -> FloatArray:
    """How many users touched the candidate."""
    return _counts(sequences, items)[_candidates(examples)].astype(np.float64)


def markov(sequences: Sequence[ItemCodes], items: int, examples: Sequence[Example]) -> FloatArray:
    """How often the candidate directly followed the last item of the history, in the sequences of all users.

    Candidates with equally many such transitions, none included, are ordered by popularity: its share of all
    interactions, which is below one transition, is added.
    """
    pairs = [sequence[:-1].astype(np.int64) * items + sequence[1:] for sequence in sequences]
    transitions, counts = np.unique(np.concatenate(pairs), return_counts=True)
    last = np.array([example.history[-1] for example in examples], dtype=np.int64)
    wanted = last[:, None] * items + _candidates(examples)
    if not len(transitions):
        return popularity(sequences, items, examples)
    places = np.minimum(np.searchsorted(transitions, wanted), len(transitions) - 1)
    followed = np.where(transitions[places] == wanted, counts[places], 0)
    popular = _counts(sequences, items)
    backed_off: FloatArray = followed + popular[_candidates(examples)] / (popular.sum() + 1)
    return backed_off


def item_knn(sequences: Sequence[ItemCodes], items: int, examples: Sequence[Example]) -> FloatArray:
    """How similar the candidate is to the items of the history, summed; similar is who shares users, weighted by BM25."""
    from implicit.nearest_neighbours import BM25Recommender  # takes a second

    model = BM25Recommender(K=_NEIGHBOURS, num_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the library does within
        model.fit(_matrix(sequences, items), show_progress=False)
    scores: csr_matrix = _matrix([e.history for e in examples], items) @ model.similarity.tocsr()
    return _of_candidates(scores, examples)


def ease(sequences: Sequence[ItemCodes], items: int, examples: Sequence[Example]) -> FloatArray:
    """A linear autoencoder over the items of the history, without self-similarity, in closed form.

    Source: Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019, equation 8. The inverse of an
    [items, items] matrix is taken: seconds for thousands of items, minutes and gigabytes for tens of thousands.
    """
    together = _matrix(sequences, items)
    gram = (together.T @ together).toarray().astype(np.float64)
    gram[np.diag_indices(items)] += _EASE_L2
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    weights[np.diag_indices(items)] = 0
    return _of_candidates(_matrix([e.history for e in examples], items) @ weights, examples)


BASELINES: dict[str, Baseline] = {
    "random": random,
    "popularity": popularity,
    "markov": markov,
    "item_knn": item_knn,
    "ease": ease,
}


def baseline_ranks(
    interactions: Interactions,
    split: Split,
    examples: Sequence[Example],
    part: Literal["validation", "test"],
) -> dict[str, Ranks]:
    """Ranks of every baseline on the same lists, each fitted on all users' interactions before the target's part.

    That is the training part for validation, and training and validation for test. EASE is left out where the catalogue
    has more than 8,000 items.
    """
    items = len(interactions.item_ids)
    sequences = split.train if part == "validation" else [sequence[:-1] for sequence in interactions.sequences]
    targets = np.array([example.target for example in examples])
    return {
        name: ranks_of_target(scores(sequences, items, examples), targets)
        for name, scores in BASELINES.items()
        if name != "ease" or items <= _MOST_ITEMS
    }


def _counts(sequences: Sequence[ItemCodes], items: int) -> IntArray:
    return np.bincount(np.concatenate(list(sequences)), minlength=items)


def _candidates(examples: Sequence[Example]) -> IntArray:
    return np.array([example.candidates for example in examples], dtype=np.int64)


def _matrix(rows: Sequence[Sequence[int] | ItemCodes], items: int) -> csr_matrix:
    """1 where the row holds the item, [rows, items]."""
    index = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    columns = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    cells = np.unique(index * items + columns)
    return csr_matrix((np.ones(len(cells), np.float32), (cells // items, cells % items)), shape=(len(rows), items))


def _of_candidates(scores: csr_matrix | FloatArray, examples: Sequence[Example]) -> FloatArray:
    rows = np.arange(len(examples))[:, None]
    picked = scores[rows, _candidates(examples)]
    found: FloatArray = (picked if isinstance(picked, np.ndarray) else picked.toarray()).astype(np.float64)
    return found
