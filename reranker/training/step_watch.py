"""Each optimiser step of a training → what is due after it: a report, a word on how far it is, memory given back, an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from reranker.errors import TrainingStopped
from reranker.evaluation.scoring import Progress
from reranker.modeling.memory.freed_memory import give_back
from reranker.training.report_plan import ReportPlan
from reranker.training.training_status import Pace, TrainingStatus

_TIDY_S = 20.0  # between two returns of freed memory to the system
_STATUS_S = 2.0  # between two status reports; a step in between only reads the clock


class StepWatch(TrainerCallback):  # type: ignore[misc]
    """After each optimiser step: asks for a report when it is due, tells how far the training is, and ends it when
    asked to."""

    def __init__(
        self, plan: ReportPlan, should_stop: Callable[[], bool], on_status: Callable[[TrainingStatus], None]
    ) -> None:
        self._plan, self._should_stop, self._on_status = plan, should_stop, on_status
        self._told = self._tidied = time.monotonic()
        self.pace = Pace()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell of the new epoch."""
        self._tell(state, self._plan.epoch_at(state.global_step))

    def score(self, state: Any, lists: int) -> Progress:
        """Tell that so many lists are being scored; returns what to tell the share of them that is done."""
        epoch, doing = self._plan.epoch_at(state.global_step - 1), f"scoring {lists} lists"
        self._tell(state, epoch, doing)

        def on_progress(share: float) -> None:
            if time.monotonic() - self._told > _STATUS_S:
                self._tell(state, epoch, f"{doing}, {share:.0%}")

        return on_progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Have a report made, tell, and free memory when due.

        Raises:
            TrainingStopped: `should_stop` said so.
        """
        control.should_evaluate = self._plan.is_due(state.global_step)
        now = time.monotonic()
        if now - self._told > _STATUS_S:
            self._tell(state, self._plan.epoch_at(state.global_step - 1))
        if now - self._tidied > _TIDY_S:
            self._tidied = now
            give_back()
        if self._should_stop():
            raise TrainingStopped(f"stopped at optimiser step {state.global_step}")

    def _tell(self, state: Any, epoch: int, doing: str = "") -> None:
        self._told = time.monotonic()
        steps = self._plan.steps
        status = TrainingStatus(
            doing,
            epoch + 1,
            state.global_step - epoch * steps,
            steps,
            self.pace.loss,
            self.pace.tokens_per_second,
            self.pace.seconds_for(state.max_steps - state.global_step),
        )
        self._on_status(status)
