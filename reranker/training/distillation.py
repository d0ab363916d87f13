"""A teacher's log-probabilities of a list's candidates and a model's logits → how far the one is from the other."""

from __future__ import annotations

import torch
from torch import Tensor


def is_taught(teacher: Tensor) -> Tensor:
    """Which examples the teacher says anything of, bool [examples]: those with two candidates that it compares.

    Args:
        teacher: log-probabilities, [examples, candidates]; −inf of candidates that it has no score of.
    """
    return teacher.isfinite().sum(dim=1) > 1


def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ softmax of the logits) in nats, over the candidates that the teacher scored; 0 where it says nothing.

    Source: Hinton et al., Distilling the knowledge in a neural network, 2015, with a temperature of the teacher's alone.

    Args:
        logits: [examples, candidates].
        teacher: as of `is_taught`; the probabilities of an example sum to 1.
    """
    says_something = is_taught(teacher)[:, None]
    has_score = teacher.isfinite() & says_something
    counted = has_score | ~says_something  # a row without any would have no softmax
    log_shares = torch.log_softmax(logits.masked_fill(~counted, -torch.inf), dim=1)
    gap = teacher.masked_fill(~has_score, 0.0) - log_shares.masked_fill(~has_score, 0.0)
    return (teacher.exp() * gap).sum(dim=1)
