"""What a check says when it finds something."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum


class Grade(IntEnum):
    """The order in which to act; see `results.diagnose`."""

    SYMPTOM = 1
    CAUSE = 2
    LIMIT = 3
    DOUBT = 4
    ASIDE = 5


class Confidence(StrEnum):
    """From the surest on."""

    SURE = "sure"
    LIKELY = "likely"
    POSSIBLE = "possible"


@dataclass(frozen=True)
class Finding:
    """One reason, in words for whoever has to act on it.

    Attributes:
        name: a few words that tell it from other findings.
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
        """Its place among the findings of a study: by grade, then the surest first."""
        return self.grade, list(Confidence).index(self.confidence)

    def as_dict(self) -> dict[str, str]:
        return {**asdict(self), "confidence": self.confidence.value, "grade": self.grade.name.lower()}
