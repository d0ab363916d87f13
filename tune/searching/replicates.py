"""The configurations that could be the best → the same with other seeds, waiting in the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from results.statistics.seed_averages import (
    ConfigurationResult,
    configuration_results,
    estimates,
    on_most_lists,
    sign_of,
)
from results.study.study_folder import StudyFolder
from tune.searching.trial_store import TrialStore


@dataclass
class Replication:
    """What is repeated once the search has ended: up to `top` configurations that could be the best, with `seeds` other
    seeds.

    Those that have so many already are left alone, so that asking again brings others their turn. A launch that goes on
    with what an earlier one was kept from finishing counts that towards its `top`.
    """

    folder: StudyFolder
    top: int
    seeds: int
    say: Callable[[str], None]
    _unfinished: frozenset[int] = field(default=frozenset(), init=False)  # originals, when the launch began
    _done: bool = field(default=False, init=False)

    def begin(self, trial_store: TrialStore) -> None:
        """Before anything is trained."""
        self._unfinished = frozenset(number for number, (_, running) in trial_store.replicates().items() if running)

    def enqueue(self, trial_store: TrialStore) -> int:
        """How many trials wait now; none from the second time on, since the replicates have changed who is best."""
        if self._done:
            return 0
        self._done = True
        seeds_so_far = {number: len(seeds) for number, (seeds, _) in trial_store.replicates().items()}
        wanted = [
            configuration_result.trial
            for configuration_result in _candidates(configuration_results(self.folder))
            if seeds_so_far.get(configuration_result.trial.number, 0) < self.seeds
            or configuration_result.trial.number in self._unfinished
        ][: self.top]
        new = {trial.number: trial_store.replicate(trial, self.seeds) for trial in wanted}
        if sum(new.values()):
            named = ", ".join(f"trial {number}" for number, count in new.items() if count)
            self.say(f"the best again with other seeds, {sum(new.values())} trainings: {named}")
        return sum(new.values())


def _candidates(ranked: list[ConfigurationResult]) -> list[ConfigurationResult]:
    """Those that could be the best, the most promising first: by the upper end of what their seeds may average. A trial
    that was stopped before a report on all lists has a score on other lists, and stays without a rank whatever its replicates have."""
    if not (ranked := on_most_lists(ranked)):
        return []
    metric = ranked[0].metric
    sign, of_ranked = sign_of(metric), estimates(ranked, metric)
    could = [i for i, estimate in enumerate(of_ranked) if estimate.could_be_best(of_ranked[0], sign)]
    return [ranked[i] for i in sorted(could, key=lambda i: -of_ranked[i].upper(sign))]
