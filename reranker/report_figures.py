"""The figures of a training's reports: where on the clock each stands, and which is the best.

The clock of a search is examples, shown as epochs: with 4 reports an epoch the third report stands at epoch 0.75.
Reports within an epoch may be scored on a part of the validation lists, always the same part
(`reranker.training.report_plan`). Their figures stop a trial early and draw its curve. The best report is one on all
lists as soon as there is one, so that no lucky part decides what a trial has reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reranker.metrics import is_loss

Figures = Mapping[str, Any]
SCORED_SHARE = "scored_share"  # the share of the validation lists that were scored; absent: all


def report_number(figures: Figures) -> int:
    """Counted from 1 over the whole trial. Studies of before there were several reports an epoch have no number."""
    return int(figures.get("report", figures["epoch"]))


def epoch_of(report: int, per_epoch: int) -> float:
    """How many epochs are trained at a report; an int where they are whole, so that they read as such."""
    whole, rest = divmod(report, per_epoch)
    return whole if rest == 0 else report / per_epoch


def scored_share(figures: Figures) -> float:
    """The share of the validation lists that were scored."""
    return float(figures.get(SCORED_SHARE, 1.0))


def on_all_lists(figures: Figures) -> bool:
    """Whether all validation lists were scored."""
    return scored_share(figures) >= 1


def is_better(figures: Figures, other: Figures, metric: str) -> bool:
    """Whether a report beats another one: one on more lists does, then the one with the better metric."""
    return _standing(figures, metric) > _standing(other, metric)


def best_report(reports: Iterable[dict[str, Any]], metric: str) -> dict[str, Any] | None:
    """The best of a trial's reports, the first one among ties; None if there is none."""
    return max(reports, key=lambda figures: _standing(figures, metric), default=None)


def _standing(figures: Figures, metric: str) -> tuple[float, float]:
    return scored_share(figures), (-1 if is_loss(metric) else 1) * figures[metric]
