"""One list to rank: a user, the history, the candidates, and the position of the true item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reranker.metrics import NOWHERE

Part = Literal["train", "validation", "test"]
Evaluated = Literal["validation", "test"]
MISSING = -1  # the target of an evaluation list that lacks its true item
NOBODY = -1  # no user: the question asks for the target by its title


@dataclass(frozen=True)
class Example:
    """One question: which candidate comes after this history? Items are positions in the catalogue's texts."""

    user: int
    history: tuple[int, ...]  # oldest first, never empty
    candidates: tuple[int, ...]  # in the order of their labels, without repeats
    target: int  # position of the true item in `candidates`; MISSING if a retriever did not find it
    excluded: tuple[int, ...] = ()  # positions that are not negatives for this user, in a shared list
    further: tuple[
        int, ...
    ] = ()  # positions of what the user touched next after the target, the nearest first: right too, but less so
    worths: tuple[float, ...] = ()  # of the target and `further`, above 0; empty: each half of the one before
    nth: int = 0  # which of the user's targets of its part it asks for
    behind: int = NOWHERE  # items that the retriever puts before a MISSING target, in a full evaluation
    collaborative: tuple[
        float, ...
    ] = ()  # to add to each candidate's logit, see `reranker.data.recommenders.collaborative_scores`
    teacher: tuple[
        float, ...
    ] = ()  # log-probabilities up to a constant, NaN where it has none, see `reranker.data.teachers.teacher`
