"""What a training does between two reports → a line of text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingStatus:
    """What a training is doing now.

    Attributes:
        doing: the activity in words, if it is not an optimiser step.
        epoch: the current one, counted from 1; 0 before the first.
        step, steps: the epoch's optimiser steps, done and in total.
        loss: of the last step, on the first worker; None before the first.
    """

    doing: str = ""
    epoch: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None

    def text(self, epochs: int) -> str:
        """The status as a line, in a training of so many epochs."""
        at = f"epoch {self.epoch}/{epochs}" if self.epoch else ""
        step = f"step {self.step}/{self.steps}" if self.steps else ""
        last = self.doing or (f"loss {self.loss:.3f}" if self.loss is not None else "")
        return " · ".join(part for part in (at, step, last) if part)
