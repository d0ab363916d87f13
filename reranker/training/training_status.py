"""What a training does between two reports → a line of text."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the import takes seconds, and slots without a model need the rest
    from torch import Tensor

_STEPS = 20  # that a moving average is over


@dataclass(frozen=True)
class TrainingStatus:
    """What a training is doing now.

    Attributes:
        doing: the activity in words, if it is not an optimiser step.
        epoch: the current one, counted from 1; 0 before the first.
        step, steps: the epoch's optimiser steps, done and in total.
        loss: mean of the last 20 steps, on the first worker; None before the first.
        tokens_per_second: of the first worker in these steps; None before the first.
        seconds_left: until all epochs are trained, scoring not included; None if unknown.
    """

    doing: str = ""
    epoch: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None

    def text(self, epochs: float) -> str:
        """The status as a line, in a training of so many epochs."""
        parts = [
            f"epoch {self.epoch}/{epochs:g}" if self.epoch else "",
            f"step {self.step}/{self.steps}" * bool(self.steps),
        ]
        if self.doing:
            parts.append(self.doing)
        elif self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
            if self.tokens_per_second is not None:
                parts.append(f"{self.tokens_per_second:,.0f} tokens/s")
            if self.seconds_left is not None:
                parts.append(f"{clock(self.seconds_left)} left")
        return " · ".join(filter(None, parts))


def clock(seconds: float) -> str:
    """Seconds as minutes:seconds, from an hour on as hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


@dataclass
class Pace:
    """Loss and speed of the last optimiser steps."""

    _steps: deque[tuple[Tensor, float, int]] = field(default_factory=lambda: deque(maxlen=_STEPS))
    _since: float = field(default_factory=time.perf_counter)
    _tokens: int = 0

    def begin(self, tokens: int) -> None:
        """Training begins here, or goes on after something else, with so many tokens trained."""
        self._since, self._tokens = time.perf_counter(), tokens

    def add(self, loss: Tensor, tokens: int) -> None:
        """A step has ended, with so many tokens trained. The loss is read only when it is shown, so that no device has
        to wait."""
        now = time.perf_counter()
        self._steps.append((loss, now - self._since, tokens - self._tokens))
        self._since, self._tokens = now, tokens

    @property
    def loss(self) -> float | None:
        """The mean over the steps."""
        return math.fsum(float(loss) for loss, _, _ in self._steps) / len(self._steps) if self._steps else None

    @property
    def tokens_per_second(self) -> float | None:
        """Over the steps."""
        seconds = math.fsum(seconds for _, seconds, _ in self._steps)
        return sum(tokens for _, _, tokens in self._steps) / seconds if seconds else None

    def seconds_for(self, steps: int) -> float | None:
        """How long so many steps take at this speed."""
        if not self._steps:
            return None
        return steps * math.fsum(seconds for _, seconds, _ in self._steps) / len(self._steps)
