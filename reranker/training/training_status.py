"""What a training is doing between two reports → a line of text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingStatus:
    """What a training is doing now.

    Attributes:
        doing: in words, where it is not an optimiser step.
        epoch: under way, counted from 1; 0 before the first.
        step, steps: how many of the epoch's optimiser steps are done, of how many.
        loss: of the step that was done last, on the first worker; None where none was.
    """

    doing: str = ""
    epoch: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None

    def text(self, epochs: int) -> str:
        """In a training of so many epochs."""
        at = f"epoch {self.epoch}/{epochs}" if self.epoch else ""
        step = f"step {self.step}/{self.steps}" if self.steps else ""
        last = self.doing or (f"loss {self.loss:.3f}" if self.loss is not None else "")
        return " · ".join(part for part in (at, step, last) if part)
