"""A trial as a study's folder has it: its knobs, how far it came, and what it scored."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reranker.report_figures import best_report
from results.study.trial_origin import DRAWN, Origin


class TrialStatus(StrEnum):
    """The status of a trial, as stored and shown."""

    RUNNING = "running"
    COMPLETED = "completed"
    PRUNED = "pruned"  # stopped before its last epoch by the scheduler or by hand
    FAILED = "failed"
    CANCELLED = "interrupted"  # the search ended while it ran

    @classmethod
    def _missing_(cls, value: object) -> TrialStatus | None:
        return cls.CANCELLED if value == "cancelled" else None  # older studies' name for it


@dataclass(frozen=True)
class StoredTrial:
    """A trial as stored. `reports` holds the figures of each report, in order."""

    number: int
    values: dict[str, Any]
    status: TrialStatus
    cause: str
    reports: list[dict[str, Any]]
    origin: Origin = DRAWN
    notes: tuple[str, ...] = ()  # events that its figures don't show
    study: str = ""  # the study's name

    @property
    def name(self) -> str:
        """The trial's number and origin."""
        return f"trial {self.number}" + ("" if self.origin == DRAWN else f" ({self.origin})")

    def best(self, metric: str) -> dict[str, Any] | None:
        """The figures of its best report, see `reranker.report_figures`; None before the first."""
        return best_report(self.reports, metric)

    @property
    def whole_epochs(self) -> list[dict[str, Any]]:
        """The reports at the end of an epoch; all reports if the trial has not trained a whole one."""
        return [figures for figures in self.reports if figures.get("epoch", 1) % 1 == 0] or self.reports
