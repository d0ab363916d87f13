"""The result of a check."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum


class Grade(IntEnum):
    """The order in which to act; see `results.diagnosis.diagnosis`."""

    SYMPTOM = 1
    CAUSE = 2
    LIMIT = 3
    DOUBT = 4
    ASIDE = 5


class Confidence(StrEnum):
    """How sure a finding is, surest first."""

    SURE = "sure"
    LIKELY = "likely"
    POSSIBLE = "possible"


@dataclass(frozen=True)
class Finding:
    """One reason for the results, in words for the person who acts on it.

    Attributes:
        name: a few words, unique among findings.
        seen: the figures.
        means: what they mean.
        next_step: what to change.
    """

    name: str
    seen: str
    means: str
    next_step: str
    confidence: Confidence
    grade: Grade

    @property
    def order(self) -> tuple[int, int]:
        """The sort key: by grade, then the surest first."""
        return self.grade, list(Confidence).index(self.confidence)

    def as_dict(self) -> dict[str, str]:
        """The finding as `results.diagnose --json` prints it."""
        return {**asdict(self), "confidence": self.confidence.value, "grade": self.grade.name.lower()}
