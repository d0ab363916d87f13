"""Histories and their targets → ranks of the targets in the whole catalogue, by whatever scores it: the full evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reranker.data.example import Evaluated, Example
from reranker.data.recommenders.linear_recommenders import FloatArray, History, IntArray, blocks
from reranker.data.recommenders.ranked_lists import RankedLists
from reranker.data.split import Split
from reranker.metrics import Ranks, ranks_of_target


@dataclass(frozen=True, eq=False)
class CatalogueLists(RankedLists):
    """Lists of all items that the part knows and the history lacks. `targets` are item codes, `candidates` unused.

    Attributes:
        known: which items there are, [items].
    """

    known: NDArray[np.bool_]

    @staticmethod
    def in_catalogue(split: Split, items: int, examples: Sequence[Example], part: Evaluated) -> CatalogueLists:
        """The examples' targets among the items of the part."""
        held_out = split.held_out(part)
        users, nth = (
            np.array(column, dtype=np.int64) for column in zip(*((e.user, e.nth) for e in examples), strict=True)
        )
        targets = held_out.items[held_out.rows(users, nth)].astype(np.int64)
        none = np.empty((len(examples), 0), dtype=np.int64)
        return CatalogueLists([example.history for example in examples], none, targets, split.known(part, items))

    def ranks(self, scores_of: Callable[[Sequence[History], IntArray], FloatArray]) -> Ranks:
        """Ranks of the targets by scores of histories and candidates, block by block."""
        greater, ties, items = [], [], np.arange(len(self.known))
        for rows in blocks(len(self.histories), len(items)):
            histories = self.histories[rows]
            scores = np.array(scores_of(histories, np.broadcast_to(items, (len(histories), len(items)))))
            scores[:, ~self.known] = -np.inf
            for row, history in zip(scores, histories, strict=True):
                row[np.asarray(history, dtype=np.int64)] = -np.inf
            ranks = ranks_of_target(scores, self.targets[rows])
            greater.append(ranks.greater)
            ties.append(ranks.ties)
        return Ranks(np.concatenate(greater), np.concatenate(ties))

    def parts(self) -> list[bytes]:
        """All that ranks depend on besides the histories and what scores them."""
        return [*super().parts(), self.known.tobytes()]
