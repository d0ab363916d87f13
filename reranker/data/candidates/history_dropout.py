"""Training examples → the same without a random part of each history, so that no single item is relied on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from reranker.data.example import Example
from reranker.data.hash_random import random_bits, uniform

_DROPOUT = 10  # what the hash is for


def without_some_history(examples: Sequence[Example], share: float, seed: int, epoch: int) -> list[Example]:
    """Leave out each item of each history with this probability; of a history that would be empty the last item stays.

    Deterministic in (seed, epoch, user, target, place from the end).
    """
    if not examples:
        return []
    lengths = np.array([len(example.history) for example in examples], dtype=np.int64)
    users = np.repeat([example.user for example in examples], lengths)
    targets = np.repeat([example.candidates[example.target] for example in examples], lengths)
    ends = np.repeat(np.cumsum(lengths), lengths)
    from_end = ends - np.arange(len(ends))  # 1 for the last item
    kept = uniform(random_bits(seed, epoch, users, targets, from_end, _DROPOUT)) >= share
    first = np.cumsum(lengths) - lengths
    left = np.add.reduceat(kept, first, dtype=np.int64)
    kept[(first + lengths - 1)[left == 0]] = True
    items = np.fromiter(chain.from_iterable(example.history for example in examples), np.int64, len(kept))
    histories = np.split(items[kept], np.cumsum(np.maximum(left, 1))[:-1])
    return [replace(e, history=tuple(history.tolist())) for e, history in zip(examples, histories, strict=True)]
