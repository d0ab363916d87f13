"""How a trial came to be: drawn by the sampler, or for which other reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class OriginKind(StrEnum):
    """The text of each kind in a study's files, before the number of a trial where one belongs to it."""

    DRAWN = ""
    START_FROM = "start_from"
    ADDED = "added"
    RETRY = "retry of"
    REPLICATE = "replicate of"  # the same configuration with another seed
    EARLIER_BEST = "of"  # among the best of an earlier study, whose scores can't be compared
    WARM_START = "warm start"  # another study's trial, of which only this one's sampler knows
    OTHER = "other"  # a text that no version writes


_WITH_A_TRIAL = {OriginKind.RETRY, OriginKind.REPLICATE, OriginKind.EARLIER_BEST}


@dataclass(frozen=True)
class Origin:
    """
    Attributes:
        trial: that it repeats or is like.
        study: whose that is, if it is another one's.
        text: of the kind OTHER.
    """

    kind: OriginKind
    trial: int | None = None
    study: str = ""
    text: str = ""

    def __str__(self) -> str:
        """As it is stored and shown: `start_from`, `retry of 3`, `of earlier-study 3`."""
        if self.kind is OriginKind.OTHER:
            return self.text
        return " ".join(filter(None, (self.kind.value, self.study, "" if self.trial is None else str(self.trial))))

    @staticmethod
    def parse(text: str) -> Origin:
        """Back from the stored text, whatever it is: files are read that somebody has edited."""
        for kind in OriginKind:
            if kind is OriginKind.OTHER:
                continue
            if kind not in _WITH_A_TRIAL and text == kind:
                return Origin(kind)
            if kind in _WITH_A_TRIAL and (match := re.fullmatch(rf"{kind} (?:(\S+) )?(\d+)", text, re.ASCII)):
                return Origin(kind, int(match[2]), match[1] or "")
        return Origin(OriginKind.OTHER, text=text)


DRAWN = Origin(OriginKind.DRAWN)
