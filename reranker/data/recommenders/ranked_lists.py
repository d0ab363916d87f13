"""Evaluation lists as arrays, and the ranks of their targets by whatever scores them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from reranker.data.example import Example
from reranker.data.recommenders.linear_recommenders import FloatArray, History, IntArray
from reranker.metrics import Ranks, ranks_of_target


@dataclass(frozen=True, eq=False)
class RankedLists:
    """Lists as arrays.

    Attributes:
        histories: oldest first.
        candidates: [lists, candidates].
        targets: positions among the candidates, [lists]; MISSING where the list lacks it.
    """

    histories: list[tuple[int, ...]]
    candidates: IntArray
    targets: IntArray

    @staticmethod
    def of(examples: Sequence[Example]) -> RankedLists:
        """The lists of examples."""
        return RankedLists(
            [example.history for example in examples],
            np.array([example.candidates for example in examples], dtype=np.int64),
            np.array([example.target for example in examples], dtype=np.int64),
        )

    def ranks(self, scores_of: Callable[[Sequence[History], IntArray], FloatArray]) -> Ranks:
        """Ranks of the targets by scores of histories and candidates."""
        return ranks_of_target(scores_of(self.histories, self.candidates), self.targets)

    def parts(self) -> list[bytes]:
        """All that ranks depend on besides the histories and what scores them."""
        return [self.candidates.tobytes(), self.targets.tobytes()]
