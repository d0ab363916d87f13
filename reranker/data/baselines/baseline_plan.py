"""Which rankers without a language model are scored, and how those that are trained are tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reranker.config import Baseline

AUTOMATIC: tuple[Baseline, ...] = ("popularity", "markov", "item_knn", "ease", "collaborative")  # take seconds
TRAINED: tuple[Baseline, ...] = ("sasrec", "gru4rec")  # take minutes
NO_MODEL = "the baseline pointwise needs data.pointwise_model, a folder or an id of the Hub"
SLOW: tuple[Baseline, ...] = (*TRAINED, "pointwise")


@dataclass(frozen=True)
class BaselinePlan:
    """The baselines to score.

    Attributes:
        minutes: of tuning, for each that is trained, and of asking the model of `pointwise`.
        metric: that they are tuned for.
        tuned: what was found of those that were tuned before, as `Baselines.figures` has it. They are trained by that,
            and the lists they then rank are not looked at.
    """

    names: tuple[Baseline, ...] = AUTOMATIC
    minutes: float = 30.0
    metric: str = "ndcg_at_10"
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
