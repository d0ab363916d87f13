"""Figures by segment and first places → data frames, for Python and for CSV files."""

from __future__ import annotations

from typing import Any

import pandas as pd

from results.statistics.paired_tests import Difference
from results.statistics.segments import Level, Segments
from results.statistics.top_items import FirstPlaces

_OF_ITEMS = ["item_id", "title", "users", "listed", "first", "target", "first_share", "target_share", "p", "result"]


def segment_frame(segments: Segments) -> pd.DataFrame:
    """A row per segment and ranker, the winner's before those of the baselines.

    Columns: by, segment, detail, lists, name, kind (trial, baseline); each metric with the ends of its interval
    (`recall_at_1_low`, `recall_at_1_high`); and for baselines the winner's difference to them in the study's metric:
    difference, difference_low, difference_high, p, result (of the winner: better, worse, not told apart).
    """
    rows = []
    for part in segments.parts:
        place = {"by": part.by, "segment": part.name, "detail": part.detail, "lists": part.lists}
        winner = {"name": f"trial {segments.trial.number}", "kind": "trial"}
        rows.append({**place, **winner, **_levels(part.winner), **_difference(None)})
        for name, levels in part.baselines.items():
            difference = part.against.get(name)
            rows.append({**place, "name": name, "kind": "baseline", **_levels(levels), **_difference(difference)})
    return pd.DataFrame(rows).convert_dtypes()


def item_frame(first: FirstPlaces, count: int | None = None) -> pd.DataFrame:
    """A row per item that stands first or is a target, the first places most above the targets first.

    Columns: item_id, title, users (who touched it in training), listed, first, target (lists in which it stands,
    stands first, is the target), first_share, target_share, p, result (too often, too seldom, not told apart, or empty
    where too few lists tell).

    Args:
        count: the number of rows at most; None: all.
    """
    rows = [
        {
            "item_id": item.item_id,
            "title": item.title,
            "users": item.users,
            "listed": item.listed,
            "first": item.first,
            "target": item.target,
            "first_share": item.first / first.lists,
            "target_share": item.target / first.lists,
            "p": item.p,
            "result": item.word,
        }
        for item in first.items[:count]
    ]
    return pd.DataFrame(rows, columns=_OF_ITEMS).convert_dtypes()


def _levels(levels: dict[str, Level]) -> dict[str, float]:
    columns: dict[str, float] = {}
    for name, level in levels.items():
        columns |= {name: level.mean, f"{name}_low": level.low, f"{name}_high": level.high}
    return columns


def _difference(difference: Difference | None) -> dict[str, Any]:
    if difference is None:
        return dict.fromkeys(["difference", "difference_low", "difference_high", "p", "result"])
    return {
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "p": difference.p,
        "result": difference.word,
    }
