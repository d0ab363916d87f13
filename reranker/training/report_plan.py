"""When a training reports, and which of the validation lists it scores then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reranker.data.example import MISSING, Example
from reranker.data.hash_random import random_bits
from reranker.errors import Fault, InputError
from reranker.report_figures import epoch_of

_PART = 4  # a report within an epoch scores one list in so many
_LEAST_LISTS = 100  # but at least so many, if there are
_PURPOSE = 0x5C0DE  # of the random numbers that choose the part


@dataclass(frozen=True)
class ReportPlan:
    """Reports at equal distances within each epoch, the last one at its end.

    Attributes:
        steps: optimiser steps of an epoch.
        per_epoch: reports of an epoch.

    Raises:
        InputError: an epoch has fewer steps than reports.
    """

    steps: int
    per_epoch: int = 1

    def __post_init__(self) -> None:
        if self.per_epoch > self.steps:
            rule = f"there must be a step between two reports, and an epoch has {self.steps}"
            hint = "fewer reports, a smaller effective_batch, or more examples_per_user"
            raise InputError([Fault(rule, field="reports_per_epoch", value=self.per_epoch, hint=hint)])

    def epoch_at(self, step: int) -> int:
        """The epoch, counted from 0, that the training is in after so many steps in all."""
        return step // self.steps

    def steps_in_epoch(self, step: int) -> int:
        """How many steps of its epoch are trained after so many steps in all, from 1."""
        return (step - 1) % self.steps + 1

    def reports_by(self, step: int) -> int:
        """How many reports there are by then, after so many steps in all."""
        epoch, rest = divmod(step, self.steps)
        return epoch * self.per_epoch + sum(self._step(number) <= rest for number in range(1, self.per_epoch))

    def is_due(self, step: int) -> bool:
        """Whether there is a report after so many steps in all."""
        return self.reports_by(step) > self.reports_by(step - 1)

    def epoch_of(self, report: int) -> float:
        """How many epochs are trained at a report."""
        return epoch_of(report, self.per_epoch)

    def scores_all(self, report: int) -> bool:
        """Whether a report is on all validation lists: those at the end of an epoch are."""
        return report % self.per_epoch == 0

    def _step(self, number: int) -> int:
        """The step within an epoch of its report `number`, from 1."""
        return round(number * self.steps / self.per_epoch)


def part_size(lists: int) -> int:
    """How many of so many validation lists the reports within an epoch are on."""
    return max(lists // _PART, min(lists, _LEAST_LISTS))


def part_of(lists: Sequence[Example]) -> list[Example]:
    """The lists that reports within an epoch are on: all of the same users, for every trial of a study.

    Where none of these holds its target, so that there would be no loss, the lists of one more user are among them.
    """
    count = part_size(len(lists))
    users = np.array([example.user for example in lists], dtype=np.int64)
    holds_target = np.array([example.target != MISSING for example in lists])
    order = np.argsort(random_bits(_PURPOSE, users), kind="stable")
    chosen = users[order[:count]]
    if not holds_target[np.isin(users, chosen)].any():
        chosen = np.append(chosen, users[order[holds_target[order]][:1]])
    return [lists[row] for row in np.flatnonzero(np.isin(users, chosen)).tolist()]
