"""One list to rank: a user, the history, the candidates, and where the true item stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Part = Literal["train", "validation", "test"]
Evaluated = Literal["validation", "test"]
MISSING = -1  # the target of an evaluation list that lacks its true item
NOBODY = -1  # whose question is not a user's: its target is asked for by its title


@dataclass(frozen=True)
class Example:
    """One question: which candidate comes after this history? Items are positions in the catalogue's texts."""

    user: int
    history: tuple[int, ...]  # oldest first, never empty
    candidates: tuple[int, ...]  # in the order of their labels, without repeats
    target: int  # position of the true item in `candidates`; MISSING where a retriever did not find it
    excluded: tuple[int, ...] = ()  # positions that are no negatives of this user's, in a list that others share
