"""Studies one after the other → what each has found, and what has changed from one to the next."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from results.leaderboard import PRETTY
from results.statistics.comparison import Comparison, comparable, compare
from results.statistics.paired_tests import Difference, Family
from results.statistics.seed_averages import ConfigurationResult, configuration_results
from results.statistics.sign_flips import Flips
from results.statistics.verdict_text import p_value, told_difference
from results.study.journal_file import begun
from results.study.search_state import SearchState
from results.study.study_folder import StudyFolder


@dataclass(frozen=True, eq=False)
class StudyOutcome:
    """What a study has found.

    Attributes:
        study: its folder.
        begun: when its first trial began, local time; None if no trial has.
        state: how far its search is.
        configurations: those that can be compared, best first.
        comparison: None if no configuration can be.
        levels: the metric of each baseline.
        reading: the first reading of its sealed test; None if it was not read.
    """

    study: StudyFolder
    begun: datetime | None
    state: SearchState
    configurations: Sequence[ConfigurationResult]
    comparison: Comparison | None
    levels: dict[str, float]
    reading: dict[str, Any] | None

    @staticmethod
    def of(study: StudyFolder, metric: str) -> StudyOutcome:
        """As the folder has it now.

        Args:
            metric: by which studies are set beside each other. What leads in a study is chosen by the study's own.
        """
        configurations = comparable(configuration_results(study))
        readings = study.readings()
        return StudyOutcome(
            study,
            begun(study.journal),
            SearchState.of(study),
            configurations,
            compare(study, ranked=configurations, metric=metric),
            {name: figures[metric] for name, figures in study.references().items() if name != "chance"},
            readings[0] if readings else None,
        )

    @property
    def score(self) -> float | None:
        """The metric of the best configuration; None if there is none."""
        return self.configurations[0].score(self.comparison.metric) if self.comparison else None

    def lead(self, baselines: Sequence[str] | None = None) -> tuple[str, Difference] | None:
        """(the strongest of these baselines, the best configuration's difference to it); None if it has none of them."""
        against = self.comparison.against if self.comparison else {}
        names = [name for name in against if baselines is None or name in baselines]
        if not names:
            return None
        strongest = max(names, key=lambda name: self.levels[name])
        return strongest, against[strongest]


@dataclass(frozen=True)
class Change:
    """From one study to the next.

    Attributes:
        metric: what is held against each other.
        difference: between the best configurations, the later minus the earlier, on the same lists, corrected for every
            pair of their configurations; None if they did not rank the same lists.
        baseline: on other lists the baseline by which they are held against each other, the strongest one of the later
            study that both have; None if they have none in common.
        leads: of the best configurations over it, the earlier study's first.
    """

    earlier: StudyOutcome
    later: StudyOutcome
    metric: str
    difference: Difference | None = None
    baseline: str | None = None
    leads: tuple[Difference, Difference] | None = None

    @staticmethod
    def between(earlier: StudyOutcome, later: StudyOutcome) -> Change:
        """What can be said of two studies that have something to compare.

        Raises:
            ValueError: one has nothing.
        """
        if not (earlier.comparison and later.comparison):
            raise ValueError("a study without a configuration that can be compared")
        metric = later.comparison.metric
        if _ranked_same_lists(earlier, later):
            return Change(earlier, later, metric, _paired(earlier, later, metric))
        shared = sorted(earlier.comparison.against.keys() & later.comparison.against.keys())
        if not (now := later.lead(shared)):
            return Change(earlier, later, metric)
        return Change(earlier, later, metric, None, now[0], (earlier.comparison.against[now[0]], now[1]))

    def __str__(self) -> str:
        head = f"{self.later.study.name} after {self.earlier.study.name}"
        metric = PRETTY.get(self.metric, self.metric)
        if self.difference:
            proof = f"{told_difference(self.difference)}, {p_value(self.difference.p)}"
            return f"{head}, on the same lists: {metric} {proof}, {self.difference.word}."
        if not (self.leads and self.baseline):
            return f"{head}: {self._why()}, and no baseline that both have, so they can't be compared."
        then, now = self.leads
        if then.high < now.low or now.high < then.low:
            judgement = f"the lead is proven {'larger' if now.mean > then.mean else 'smaller'}"
        else:
            judgement = "the intervals overlap, so no change is proven"
        leads = f"{told_difference(then)} then and {told_difference(now)} now"
        return f"{head}: {self._why()}, so by the lead over {self.baseline}: {metric} {leads}; {judgement}."

    def _why(self) -> str:
        """Why their lists are not the same."""
        then, now = (outcome.study.read_manifest() for outcome in (self.earlier, self.later))
        same_data = then["tags"].get("data_fingerprint") == now["tags"].get("data_fingerprint")
        why = "other lists of the same data" if same_data else "other data"
        sizes = then["plan"].get("candidates"), now["plan"].get("candidates")
        return why if sizes[0] == sizes[1] or None in sizes else f"{why}, {sizes[1]} candidates in place of {sizes[0]}"


def _ranked_same_lists(earlier: StudyOutcome, later: StudyOutcome) -> bool:
    first, second = (outcome.study.read_manifest().get("lists") for outcome in (earlier, later))
    same_users = earlier.configurations[0].user_ids == later.configurations[0].user_ids
    return first is not None and first == second and same_users


def _paired(earlier: StudyOutcome, later: StudyOutcome, metric: str) -> Difference:
    """Every configuration of the later study against every one of the earlier; the two best ones' difference."""
    configurations, count = [*later.configurations, *earlier.configurations], len(later.configurations)
    lists = configurations[0].lists
    flips = Flips.of([lists.ranker(configuration.ranker(metric)) for configuration in configurations])
    pairs = list(itertools.product(range(count), range(count, len(configurations))))
    return Family.of(flips, pairs).differences[0]
