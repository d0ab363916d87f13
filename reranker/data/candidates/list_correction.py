"""How often an item is a negative in lists of one example and in shared ones → what is added to its logit in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reranker.config import TrialConfig
from reranker.data.candidates.first_stage import NOTHING
from reranker.data.candidates.negatives import Negatives
from reranker.data.interactions import ItemCodes
from reranker.metrics import FloatArray

_FROM_POOLS = 0.95  # of hard negatives; the rest count as uniform ones, so that each item is one at times


@dataclass(frozen=True, eq=False)
class SharedLists:
    """What is known of the lists that examples share.

    Attributes:
        together: examples of a list.
        right: right items of an example, on average.
        right_shares: of all right items the share that each item has, [items].
        hard: of all hard negatives the share that each item has, [items]; None without hard negatives.
    """

    together: int
    right: float
    right_shares: FloatArray
    hard: FloatArray | None = None


def list_correction(config: TrialConfig, lists: SharedLists, negatives: Negatives) -> NDArray[np.float32]:
    """For each item, log(frequency as a negative in lists of the mix alone / frequency in shared lists), [items].

    With r right items an example, a shared list has the distinct ones of r · (together - 1) others and as many drawn items as
    are then missing, an ordinary list (candidates - r) drawn items. Items that are negatives more often would learn lower
    scores. Added to the logits in training, the correction offsets this, so scores mean the same as after training on
    the mix, with uniform negatives in the place of hard ones: these are to be harder, not to hold down what the retriever
    fetches often. Source: sampled softmax (Bengio and Senécal, Quick training of probabilistic neural nets by importance
    sampling, AISTATS 2003).
    """
    mix, known = config.negatives, negatives.known["train"]
    popularity, uniform = negatives.weights["train", "popularity"], known / known.sum()
    as_others, listed = (
        1 - (1 - lists.right_shares) ** (lists.right * examples) for examples in (lists.together - 1, lists.together)
    )
    drawn = mix.popularity * popularity / popularity.sum() + mix.uniform * uniform
    in_own, in_shared = drawn + mix.retriever * uniform, drawn * (1 - listed)
    in_shared *= drawn.sum() / max(in_shared.sum(), 1e-9)
    if lists.hard is not None:
        in_shared += mix.retriever * (_FROM_POOLS * lists.hard + (1 - _FROM_POOLS) * uniform)
    shared = as_others + (config.candidates - listed.sum()) * in_shared
    ratio = np.ones(len(known))  # of items that are in no list
    np.divide((config.candidates - lists.right) * in_own, np.maximum(shared, 1e-9 * in_own), out=ratio, where=known)
    correction: NDArray[np.float32] = np.log(ratio).astype(np.float32)
    return correction


def drawn_shares(pools: ItemCodes, items: int) -> FloatArray:
    """How often each item is drawn from a row's pool, on average over the rows that have one, [items]."""
    is_item = pools != NOTHING
    sizes = is_item.sum(axis=1)
    weights = np.repeat(1 / np.maximum(sizes, 1), sizes)
    shares: FloatArray = np.bincount(pools[is_item], weights=weights, minlength=items) / max(1, (sizes > 0).sum())
    return shares
