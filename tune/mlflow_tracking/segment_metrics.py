"""A study → the figures by segment that its parent run has as metrics."""

from __future__ import annotations

from collections.abc import Sequence

from reranker.errors import EnvironmentFault
from results.statistics.comparison import Comparison
from results.statistics.first_places import FirstPlaces, first_places
from results.statistics.seed_averages import ConfigurationResult
from results.statistics.segments import Segments, segments
from results.study.study_folder import StudyFolder

SEGMENT, FIRST = "segment/", "first/"


def segment_metrics(
    study: StudyFolder, ranked: Sequence[ConfigurationResult], comparison: Comparison | None
) -> dict[str, float]:
    """The winner's figures by segment, and of what it puts first; none where the study keeps no facts of its lists, or
    they are damaged, which is no reason to track nothing else."""
    try:
        found = segments(study, ranked, comparison)
        first = None if found is None else first_places(study, found.trial)
    except EnvironmentFault:
        return {}
    return {**({} if found is None else _of_segments(found)), **({} if first is None else _of_first(first))}


def _of_segments(found: Segments) -> dict[str, float]:
    """`segment/history short/ndcg_at_10`: the level; `…/gain`: the difference to the best baseline there."""
    metrics: dict[str, float] = {}
    for part in found.parts:
        if not part.by:  # all lists have their figures elsewhere
            continue
        name = f"{SEGMENT}{part.by} {part.name}"
        metrics |= {f"{name}/{metric}": level.mean for metric, level in part.winner.items()}
        metrics[f"{name}/lists"] = part.lists
        if (difference := part.difference) is not None:
            ends = {"gain": difference.mean, "gain_low": difference.low, "gain_high": difference.high}
            metrics |= {f"{name}/{end}": value for end, value in ends.items()}
    return metrics


def _of_first(first: FirstPlaces) -> dict[str, float]:
    return {
        f"{FIRST}coverage": first.coverage,
        f"{FIRST}novelty": first.novelty.mean,
        f"{FIRST}novelty_gain": first.novelty_gain.mean,
        f"{FIRST}items_too_often": len(first.too_often),
    }
