"""Sequences before the target → rankers without a language model, and the ranks that they give the same lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from reranker.candidates import Example
from reranker.interactions import Interactions, ItemCodes, Split
from reranker.metrics import FloatArray, IntArray, Ranks, ranks_of_target

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


BASELINES: dict[str, Baseline] = {"random": random, "popularity": popularity, "markov": markov}


def baseline_ranks(
    interactions: Interactions,
    split: Split,
    examples: Sequence[Example],
    part: Literal["validation", "test"],
) -> dict[str, Ranks]:
    """Ranks of every baseline on the same lists, each fitted on all users' interactions before the target's part.

    That is the training part for validation, and training and validation for test.
    """
    sequences = split.train if part == "validation" else [sequence[:-1] for sequence in interactions.sequences]
    targets = np.array([example.target for example in examples])
    return {
        name: ranks_of_target(scores(sequences, len(interactions.item_ids), examples), targets)
        for name, scores in BASELINES.items()
    }


def _counts(sequences: Sequence[ItemCodes], items: int) -> IntArray:
    return np.bincount(np.concatenate(list(sequences)), minlength=items)


def _candidates(examples: Sequence[Example]) -> IntArray:
    return np.array([example.candidates for example in examples], dtype=np.int64)
