"""Ray's schedulers, opened where they are closed: all that is reached of them behind their public interface.

`tests/searching/test_ray_schedulers_private.py` says what an upgrade breaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from tune.execution.trial_messages import TuneResult


class OpenAsha(AsyncHyperBandScheduler):  # type: ignore[misc]
    """ASHA that tells what it knows, and takes a stop back."""

    @property
    def sign(self) -> float:
        """-1 where less of the metric is better."""
        return float(self._metric_op)

    @property
    def time_attribute(self) -> str:
        """The key of results that is the clock."""
        return str(self._time_attr)

    def cutoff(self, trial_id: str) -> float:
        """The signed metric that a trial needs at the rung that it was last judged at, by what the others had there."""
        bracket = self._trial_info[trial_id]
        recorded = next(recorded for _, recorded in bracket._rungs if trial_id in recorded)
        return float(bracket.cutoff({other: reward for other, reward in recorded.items() if other != trial_id}))

    def reduction(self, trial_id: str) -> float:
        """One of so many goes on from a rung of the trial's bracket."""
        return float(self._trial_info[trial_id].rf)

    def take_back_a_stop(self) -> str:
        """What `on_trial_result` returns instead of STOP."""
        self._num_stopped -= 1
        return str(TrialScheduler.CONTINUE)

    @contextmanager
    def drawing(self, *seed: int) -> Iterator[None]:
        """The bracket that a trial is added to meanwhile depends on the seed alone: ASHA draws it with numpy's global
        state."""
        before = np.random.get_state()
        np.random.seed(list(seed))
        try:
            yield
        finally:
            np.random.set_state(before)


class OpenMedianRule(MedianStoppingRule):  # type: ignore[misc]
    """The median rule, whose memory of a trial's results can be read and set."""

    def results(self, trial: Any) -> list[TuneResult]:
        """Those that it has heard of a trial."""
        return list(self._results.get(trial, []))

    def remember(self, trial: Any, results: list[TuneResult]) -> None:
        """Have it know these results of a trial."""
        self._results[trial] = results

    def take_back_a_stop(self, trial: Any) -> str:
        """What `on_trial_result` returns instead of STOP."""
        self._stopped_trials.discard(trial)
        return str(TrialScheduler.CONTINUE)
