"""`run_search.py` on data whose test items were exchanged for others: python tests/poisoned.py ARGUMENTS …"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from reranker.command_line.entry_point import run
from reranker.data.assemble import RerankingData
from reranker.data.candidates.candidate_lists import CandidateSampler
from reranker.data.interactions import Interactions
from reranker.data.split import split


def with_last_items(data: RerankingData, last: list[list[int]]) -> RerankingData:
    """The same data with other items at the end of each sequence; what negatives leave out stays as it was."""
    pairs = zip(data.interactions.sequences, last, strict=True)
    sequences = [np.append(old[: len(old) - len(new)], new).astype(np.int32) for old, new in pairs]
    poisoned: Interactions = replace(data.interactions, sequences=sequences, known_touched=data.interactions.touched)
    parts = split(poisoned)
    return RerankingData(data.config, poisoned, parts, CandidateSampler(poisoned, parts, data.config.retriever))


def poison_test(data: RerankingData) -> RerankingData:
    """A user's test items are the most popular ones that the user never touched: nothing looks as right, and nothing is as wrong."""
    counts = np.bincount(np.concatenate(data.split.train), minlength=len(data.interactions.item_ids))
    popular = np.argsort(-counts, kind="stable").tolist()
    last = []
    for sequence, before in zip(data.interactions.sequences, data.split.before_test, strict=True):
        own = set(sequence.tolist())
        last.append([item for item in popular if item not in own][: len(sequence) - len(before)])
    return with_last_items(data, last)


def poison_validation(data: RerankingData) -> RerankingData:
    """Each validation item has changed its place with the test item."""
    return with_last_items(data, [[sequence[-1], sequence[-2]] for sequence in data.interactions.sequences])


if __name__ == "__main__":
    from tune import run_search

    prepare = RerankingData.prepare
    RerankingData.prepare = staticmethod(lambda *given: poison_test(prepare(*given)))  # type: ignore[assignment,method-assign]
    run(run_search.main)
