"""A list's logits and its right items → a loss of the list, by the order of each right item among those that are less so.

Candidates that must not count have a logit so low that their part of each sum is exactly zero. With one right item the
softmax over such a list (label_ce) is ListNet's (Cao et al., ICML 2007), with several `listnet` below.

The negatives of a list may be more frequent than they ought to be; what is added to the logits for that is the same for
all of these losses: where each item is negative with frequency q and the target with frequency π, the pairwise logistic
loss is least at scores of log(π / q), as the softmax is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

_MU = 10.0  # of NDCG-Loss2++, as in the paper


def listnet(logits: Tensor, relevance: Tensor) -> Tensor:
    """−Σ q log softmax(logits) with q = relevance / Σ relevance, [lists]: ListNet's top-one loss with these probabilities.

    Source: Cao et al., Learning to rank: from pairwise approach to listwise approach, ICML 2007.

    Args:
        logits: [lists, candidates].
        relevance: how right each candidate is, [lists, candidates]; at least one above 0 in each list.
    """
    shares = relevance / relevance.sum(dim=1, keepdim=True)
    return -(shares * logits.log_softmax(dim=1)).sum(dim=1)


def ranknet(logits: Tensor, relevance: Tensor) -> Tensor:
    """−log σ(right − other), mean over the pairs of a candidate and one that is less right, [lists].

    Source: Burges et al., Learning to rank using gradient descent, ICML 2005.

    Args:
        logits, relevance: as of `listnet`.

    >>> ranknet(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]]))  # log 2 where nothing is told apart
    tensor([0.6931])
    """
    total, pairs = logits.new_zeros(len(logits)), logits.new_zeros(len(logits))
    for place, worth in _right(relevance):
        less = (relevance < worth).to(logits.dtype)
        total = total + (less * _against(logits, place)).sum(dim=1)
        pairs = pairs + less.sum(dim=1)
    return total / pairs.clamp(min=1)


def lambdaloss(logits: Tensor, relevance: Tensor) -> Tensor:
    """NDCG-Loss2++: Σ over pairs of a candidate i and one j that is less right of (ρ + 10 δ) · |Gᵢ − Gⱼ| ·
    log2(1 + exp(j − i)), [lists].

    G is the relevance over what the best order's DCG would be. With D(r) = log2(1 + r), and the ranks r of the two by the
    logits as they are, ρ is the change of DCG for a gain of 1 if the two change places, |1/D(rᵢ) − 1/D(rⱼ)|, and δ that by
    their distance d, |1/D(d) − 1/D(d + 1)|. Source: Wang et al., The LambdaLoss framework for ranking metric
    optimization, CIKM 2018.

    Args:
        logits, relevance: as of `listnet`.
    """
    relevance = relevance.to(logits.dtype)
    ranks = logits.detach().argsort(dim=1, descending=True, stable=True).argsort(dim=1).to(logits.dtype) + 1
    best = relevance.sort(dim=1, descending=True).values / torch.log2(
        torch.arange(2, relevance.shape[1] + 2, device=relevance.device)
    )
    gains = relevance / best.sum(dim=1, keepdim=True)
    total = logits.new_zeros(len(logits))
    for place, worth in _right(relevance):
        own = ranks.gather(1, place)
        distance = (ranks - own).abs().clamp(min=1)  # of an item to itself none, and it is not less right
        exchange = (1 / torch.log2(1 + own) - 1 / torch.log2(1 + ranks)).abs()
        weights = exchange + _MU * (1 / torch.log2(1 + distance) - 1 / torch.log2(2 + distance))
        weights = weights * (gains.gather(1, place) - gains) * (relevance < worth)
        total = total + (weights * _against(logits, place)).sum(dim=1)
    return total / math.log(2)


def _right(relevance: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Column and relevance, each [lists, 1], of every list's first, second, … right item; 0 where a list has fewer."""
    most = int((relevance > 0).sum(dim=1).max())
    worths, places = relevance.topk(most, dim=1)
    for nth in range(most):
        yield places[:, nth : nth + 1], worths[:, nth : nth + 1]


def _against(logits: Tensor, place: Tensor) -> Tensor:
    """log(1 + exp(other − own)) of each candidate, [lists, candidates]."""
    return F.softplus(logits - logits.gather(1, place))


RANKING_LOSSES = {"ranknet": ranknet, "lambdaloss": lambdaloss}
