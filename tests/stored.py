"""Reports of trials that no training has made, stored as a training stores them."""

from __future__ import annotations

from typing import Any

from reranker.metrics import Picks, Ranks, summarise
from reranker.trial_folder import TrialFolder


def report(
    folder: TrialFolder,
    users: list[str],
    ranks: Ranks,
    picks: Picks | None = None,
    *,
    metric: str = "ndcg_at_10",
    **figures: Any,
) -> None:
    """The next report of a trial: its ranks, then its line of figures, in which these take the place of what they give."""
    earlier = folder.read_epochs()
    epoch, sign = len(earlier) + 1, -1 if metric.endswith("_loss") else 1
    line = {"epoch": epoch, "train_loss": 1.0, "val_loss": 1.0, "seconds": 5.0 * epoch, **summarise(ranks), **figures}
    best = all(sign * line[metric] > sign * other[metric] for other in earlier)
    folder.keep_report(line["epoch"], users, ranks, picks, best=best)
    folder.append_epoch(line)
