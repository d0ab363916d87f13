"""Label scores of evaluation lists → ranks, what stood first, and the figures that are reported of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reranker.metrics import Picks, Ranks, picks, ranks_of_target, summarise

FLOPS = (
    "FLOPs a list = 2 · (parameters outside the embeddings) · tokens + 2 · layers · heads · head size · tokens² + 2 · hidden "
    "size · labels, with the adapter merged into its base; of a mean validation list."
)
RETRIEVED = "retrieved/"  # before a metric's name: over the lists alone that hold their target


@dataclass(frozen=True)
class Evaluation:
    """What a model made of the evaluation lists.

    Attributes:
        ranks: of each list's target.
        picks: what stood first in each.
        figures: `val_loss` (nats, of the label softmax), and the metrics of `reranker.metrics`. Where a retriever made the
            lists also `hit`, the share of them that hold their target, and each metric over those alone.
    """

    ranks: Ranks
    picks: Picks
    figures: dict[str, float]


def evaluate(scores: NDArray[np.floating], targets: NDArray[np.integer]) -> Evaluation:
    """Rank, and sum up.

    Args:
        scores: log-probabilities among the labels, [lists, candidates].
        targets: [lists], position of the true item, or MISSING.
    """
    ranks = ranks_of_target(scores, targets)
    held = ranks.found
    own = np.take_along_axis(_log_softmax(scores[held]), targets[held, None], axis=1)
    figures = {"val_loss": float(-own.mean()) if held.any() else float("nan"), **summarise(ranks)}
    if not held.all():
        figures["hit"] = float(held.mean())
        if held.any():
            figures |= {f"{RETRIEVED}{name}": value for name, value in summarise(ranks.of(held)).items()}
    return Evaluation(ranks, picks(scores, targets), figures)


def _log_softmax(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    shifted = scores - scores.max(axis=1, keepdims=True)
    shares: NDArray[np.floating] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shares
