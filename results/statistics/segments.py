"""What is known of the lists, and ranks → figures by segment: where the winner gains, and where it loses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reranker.metrics import FloatArray
from results.statistics.comparison import Comparison, baseline_values, comparable, compare
from results.statistics.lists_of_users import ListsOfUsers
from results.statistics.paired_tests import Difference, Family
from results.statistics.seed_averages import ConfigurationResult, configuration_results
from results.statistics.sign_flips import FEWER, Flips, Ranker
from results.study.list_facts import ListFacts, Segment
from results.study.stored_trial import StoredTrial
from results.study.study_folder import StudyFolder

SHOWN = ("recall_at_1", "ndcg_at_10")
LEAST = 10  # users; of fewer, hardly any difference could be proven beside the other segments
_ALL = "all lists"


@dataclass(frozen=True)
class Level:
    """The mean of a metric over a segment's lists, and its 95% interval, by itself."""

    mean: float
    low: float
    high: float

    @staticmethod
    def of(values: FloatArray, users: ListsOfUsers) -> Level:
        """Of a value per list."""
        return Level(float(values.mean()), *users.interval(values))


@dataclass(frozen=True)
class SegmentFigures:
    """Every ranker on the lists of a segment.

    Attributes:
        by: what the lists are told apart by; empty for all lists.
        name, detail: the part, and its bounds in words.
        lists: how many are in it.
        winner: the winner's levels, by metric.
        baselines: each baseline's levels, by metric.
        against: the winner's difference to each baseline in the study's metric; empty in a segment with lists of fewer
            than `LEAST` users.
        best: the baseline with the highest mean of that metric here; empty if there is none.
    """

    by: str
    name: str
    detail: str
    lists: int
    winner: dict[str, Level]
    baselines: dict[str, dict[str, Level]]
    against: dict[str, Difference]
    best: str

    @property
    def difference(self) -> Difference | None:
        """The winner's difference to the best baseline; None if there is none, or too few users."""
        return self.against.get(self.best)

    @property
    def words(self) -> str:
        """The segment with its bounds: `history: short (length 1 to 4)`."""
        return f"{self.by}: {self.name} ({self.detail})" if self.by else self.name


@dataclass(frozen=True)
class Segments:
    """A study's figures by segment.

    Attributes:
        metric: the one that differences are in; see `Comparison.metric`.
        trial: the winner, the trial of the configuration with the best estimate.
        parts: all lists, then the segments.
    """

    metric: str
    trial: StoredTrial
    parts: tuple[SegmentFigures, ...]

    @property
    def losses(self) -> list[tuple[SegmentFigures, str, Difference]]:
        """Segments where the winner is proven worse than a baseline, with both, the largest loss first."""
        worse = [
            (part, baseline, difference)
            for part in self.parts
            for baseline, difference in part.against.items()
            if part.by and difference.proven and difference.mean < 0
        ]
        return sorted(worse, key=lambda loss: loss[2].mean)


def segments(
    study: StudyFolder,
    ranked: Sequence[ConfigurationResult] | None = None,
    comparison: Comparison | None = None,
) -> Segments | None:
    """Figures of the winner and of every baseline by segment of the validation lists; None without ranks.

    The winner, its epoch, the segment and the baseline are all picked from many. So in each segment every configuration
    with all its reports is tested against every baseline, as `compare` does on all lists, and the segments share the
    level (Bonferroni): the p-values hold for all of them together, and the intervals beside them too.

    Args:
        ranked: the study's configurations, best first, if known already.
        comparison: on all lists, if known already.

    Raises:
        EnvironmentFault: the study keeps no facts of its lists.
        DamagedFile: they are not what was written.
    """
    facts = ListFacts.of_study(study)
    configurations = comparable(configuration_results(study) if ranked is None else ranked)
    comparison = comparison or compare(study, ranked=configurations)
    if comparison is None:
        return None
    best = configurations[0]
    facts = facts.ranked_for(best.user_ids)
    names = tuple(dict.fromkeys([*SHOWN, comparison.metric]))
    own = {metric: best.values(metric) for metric in names}
    baselines = {metric: baseline_values([study], metric, best.user_ids) for metric in names}
    everything = Segment("", _ALL, "", np.ones(len(facts.user_ids), dtype=np.bool_))
    parts, users = facts.segments(), best.lists
    against = _against(
        [configuration.ranker(comparison.metric) for configuration in configurations],
        baselines[comparison.metric],
        parts,
        users,
    )
    figures = [
        _figures(part, users.on(part.lists), differences, own, baselines, comparison.metric)
        for part, differences in zip([everything, *parts], [comparison.against, *against], strict=True)
    ]
    return Segments(comparison.metric, best.trial, tuple(figures))


def _figures(
    part: Segment,
    users: ListsOfUsers,
    against: dict[str, Difference],
    own: Mapping[str, FloatArray],
    baselines: Mapping[str, Mapping[str, FloatArray]],
    metric: str,
) -> SegmentFigures:
    means = {name: float(values[part.lists].mean()) for name, values in baselines[metric].items()}
    return SegmentFigures(
        part.by,
        part.name,
        part.detail,
        int(part.lists.sum()),
        {name: Level.of(values[part.lists], users) for name, values in own.items()},
        {
            baseline: {name: Level.of(values[baseline][part.lists], users) for name, values in baselines.items()}
            for baseline in means
        },
        against,
        max(means, key=lambda name: means[name], default=""),
    )


def _against(
    rankers: Sequence[Ranker], baselines: Mapping[str, FloatArray], parts: Sequence[Segment], users: ListsOfUsers
) -> Iterator[dict[str, Difference]]:
    """For each part, the first ranker's difference to each baseline, corrected for all parts, rankers and baselines."""
    of_parts = [users.on(part.lists) for part in parts]
    tested = sum(len(of_part) >= LEAST for of_part in of_parts)
    pairs = list(itertools.product(range(len(rankers)), range(len(rankers), len(rankers) + len(baselines))))
    for part, of_part in zip(parts, of_parts, strict=True):
        if len(of_part) < LEAST or not baselines:
            yield {}
            continue
        rivals = [Ranker.of(values[part.lists]) for values in baselines.values()]
        of_lists = [*(ranker.on(part.lists) for ranker in rankers), *rivals]
        flips = Flips.of([of_part.ranker(ranker) for ranker in of_lists], resamples=FEWER, ties=False)
        family = Family.of(flips, pairs, families=tested)
        yield dict(zip(baselines, family.differences[: len(baselines)], strict=True))
