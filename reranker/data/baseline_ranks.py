"""Lists → ranks of their targets without a language model: what a tuned model must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from reranker.data.example import Example
from reranker.data.interactions import Interactions, Split
from reranker.data.recommenders import MOST_ITEMS, RECOMMENDERS
from reranker.metrics import Ranks, ranks_of_target

RANDOM = "random"
COLLABORATIVE = "collaborative"  # see `reranker.data.collaborative`


def baseline_ranks(
    interactions: Interactions,
    split: Split,
    examples: Sequence[Example],
    part: Literal["validation", "test"],
) -> dict[str, Ranks]:
    """Ranks of every baseline on the same lists, each fitted on all users' interactions before the target's part.

    That is the training part for validation, and training and validation for test. `random` scores all items equally:
    the metrics of a full tie are the exact expectation over random orders. EASE is left out if the catalogue has more
    than 8,000 items.
    """
    items, sequences = len(interactions.item_ids), split.before(part)
    targets = np.array([example.target for example in examples])
    candidates = np.array([example.candidates for example in examples], dtype=np.int64)
    histories = [example.history for example in examples]
    ranks = {RANDOM: ranks_of_target(np.zeros(candidates.shape), targets)}
    for name, fit in RECOMMENDERS.items():
        if items <= MOST_ITEMS.get(name, items):
            ranks[name] = ranks_of_target(fit(sequences, items).scores_of(histories, candidates), targets)
    return ranks
