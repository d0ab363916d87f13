"""The best trials of a search → the same configurations with other seeds, waiting in the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from results.contenders import contenders
from results.study_folder import StudyFolder
from tune.ledger import Ledger


@dataclass
class Replication:
    """What is repeated once the search has ended: the `top` best configurations, with `seeds` other seeds each."""

    folder: StudyFolder
    top: int
    seeds: int
    say: Callable[[str], None]
    _done: bool = field(default=False, init=False)

    def enqueue(self, ledger: Ledger) -> int:
        """How many trials wait now; none from the second time on, since the replicates have changed who is best."""
        if self._done:
            return 0
        self._done = True
        best = [contender.trial for contender in contenders(self.folder)[: self.top]]
        new = sum(ledger.replicate(trial, self.seeds) for trial in best)
        if new:
            named = ", ".join(f"trial {trial.number}" for trial in best)
            self.say(f"the best again with other seeds, {new} trainings: {named}")
        return new
