"""A study → what its own run has of figures by segment in any tracker: metrics, and sentences for its note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reranker.errors import EnvironmentFault
from results.statistics.comparison import Comparison
from results.statistics.seed_averages import ConfigurationResult
from results.statistics.segment_text import losses
from results.statistics.segments import Segments, segments
from results.statistics.top_items import FirstPlaces, first_places
from results.study.study_folder import StudyFolder

SEGMENT, FIRST = "segment/", "first/"


@dataclass(frozen=True)
class WhoGains:
    """The winner's figures by segment and what it puts first; None of either where it is not known."""

    segments: Segments | None = None
    first: FirstPlaces | None = None

    @staticmethod
    def of_study(study: StudyFolder, ranked: Sequence[ConfigurationResult], comparison: Comparison | None) -> WhoGains:
        """Nothing where the study keeps no facts of its lists, or they are damaged: the rest is tracked all the same."""
        try:
            of_segments = segments(study, ranked, comparison)
            return WhoGains(of_segments, None if of_segments is None else first_places(study, of_segments.trial))
        except EnvironmentFault:
            return WhoGains()

    @property
    def metrics(self) -> dict[str, float]:
        """Both as metrics of a run."""
        by_segment = {} if self.segments is None else _of_segments(self.segments)
        return by_segment | ({} if self.first is None else _of_first(self.first))

    @property
    def losses(self) -> list[str]:
        """Where the winner is proven worse, a sentence each."""
        return [] if self.segments is None else losses(self.segments)


def _of_segments(all_segments: Segments) -> dict[str, float]:
    """`segment/history short/ndcg_at_10`: the level; `…/gain`: the difference to the best baseline there."""
    metrics: dict[str, float] = {}
    for part in all_segments.parts:
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
