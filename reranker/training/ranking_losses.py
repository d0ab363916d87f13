"""A list's logits and its one true item → a loss of the list, by the order of the true item among the others.

Candidates that must not count have a logit so low that their part of each sum is exactly zero. The losses are those of a
list with one positive; the softmax over such a list (label_ce) is ListNet's (Cao et al., ICML 2007).

The negatives of a list may be more frequent than they ought to be; what is added to the logits for that is the same for
all of these losses: where each item is negative with frequency q and the target with frequency π, the pairwise logistic
loss is least at scores of log(π / q), as the softmax is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_MU = 10.0  # of NDCG-Loss2++, as in the paper


def ranknet(logits: Tensor, targets: Tensor) -> Tensor:
    """−log σ(true − other), mean over the list's other candidates, [lists].

    Source: Burges et al., Learning to rank using gradient descent, ICML 2005.

    Args:
        logits: [lists, candidates].
        targets: int64 [lists], the true item's column.

    >>> ranknet(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([1]))  # log 2 where nothing is told apart
    tensor([0.6931])
    """
    return _per_pair(logits, targets).sum(dim=1) / max(1, logits.shape[1] - 1)


def lambdaloss(logits: Tensor, targets: Tensor) -> Tensor:
    """NDCG-Loss2++: Σ over the other candidates of (ρ + 10 δ) · log2(1 + exp(other − true)), [lists].

    With D(r) = log2(1 + r), and the ranks r of the true item and the other by the logits as they are, ρ is the change of
    DCG if the two change places, |1/D(r_true) − 1/D(r_other)|, and δ that by their distance d,
    |1/D(d) − 1/D(d + 1)|. Source: Wang et al., The LambdaLoss framework for ranking metric optimization, CIKM 2018.

    Args:
        logits, targets: as of `ranknet`.
    """
    with torch.no_grad():
        order = logits.argsort(dim=1, descending=True, stable=True)
        ranks = order.argsort(dim=1).to(logits.dtype) + 1
        own = ranks.gather(1, targets[:, None])
        distance = (ranks - own).abs().clamp(min=1)  # of the true item to itself none, and its loss is taken out
        exchange = (1 / torch.log2(1 + own) - 1 / torch.log2(1 + ranks)).abs()
        weights = exchange + _MU * (1 / torch.log2(1 + distance) - 1 / torch.log2(2 + distance))
    return (weights * _per_pair(logits, targets)).sum(dim=1) / math.log(2)


def _per_pair(logits: Tensor, targets: Tensor) -> Tensor:
    """log(1 + exp(other − true)) of each candidate, 0 of the true one, [lists, candidates]."""
    own = logits.gather(1, targets[:, None])
    return F.softplus(logits - own).scatter(1, targets[:, None], 0.0)


RANKING_LOSSES = {"ranknet": ranknet, "lambdaloss": lambdaloss}
