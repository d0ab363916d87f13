"""The origin of a trial: drawn by the sampler, or another reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class OriginKind(StrEnum):
    """The text of each kind in a study's files; a trial's number may follow."""

    DRAWN = ""
    START_FROM = "start_from"
    ADDED = "added"
    RETRY = "retry of"
    REPLICATE = "replicate of"  # the same configuration with another seed
    EARLIER_BEST = "of"  # one of the best of an earlier study with incomparable scores
    WARM_START = "warm start"  # another study's trial, known to this study's sampler only
    OTHER = "other"  # text that no version writes


_WITH_A_TRIAL = {OriginKind.RETRY, OriginKind.REPLICATE, OriginKind.EARLIER_BEST}


@dataclass(frozen=True)
class Origin:
    """Where a trial comes from.

    Attributes:
        kind: the reason.
        trial: the trial that it repeats or copies.
        study: that trial's study, if it is another one.
        text: the stored text if the kind is OTHER.
    """

    kind: OriginKind
    trial: int | None = None
    study: str = ""
    text: str = ""

    def __str__(self) -> str:
        """The stored and shown text: `start_from`, `retry of 3`, `of earlier-study 3`."""
        if self.kind is OriginKind.OTHER:
            return self.text
        return " ".join(filter(None, (self.kind.value, self.study, "" if self.trial is None else str(self.trial))))

    @staticmethod
    def parse(text: str) -> Origin:
        """Parse the stored text. Accepts any text, since people may edit the files."""
        for kind in OriginKind:
            if kind is OriginKind.OTHER:
                continue
            if kind not in _WITH_A_TRIAL and text == kind:
                return Origin(kind)
            if kind in _WITH_A_TRIAL and (match := re.fullmatch(rf"{kind} (?:(\S+) )?(\d+)", text, re.ASCII)):
                return Origin(kind, int(match[2]), match[1] or "")
        return Origin(OriginKind.OTHER, text=text)


DRAWN = Origin(OriginKind.DRAWN)
