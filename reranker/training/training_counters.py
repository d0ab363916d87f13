"""What each worker had counted when a training state was kept → the counters of the workers that go on from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from reranker.training.collator import Counts

Counters = Mapping[str, float]
_LOSSES = ("losses", "guessing")
_NAMES = [*vars(Counts()), "training", "passed", "largest_rate", *_LOSSES]


def write_counters(state: Path, rank: int, counters: Counters) -> None:
    """One worker's, into the folder of a training state."""
    (state / f"counters-{rank}.json").write_text(json.dumps(counters), encoding="utf-8")


def read_counters(state: Path) -> list[Counters]:
    """Of all workers that kept the state, by rank; what older states lack is 0, but for the loss of guessing, NaN."""
    files = sorted(state.glob("counters-*.json"), key=lambda file: int(file.stem.split("-")[1]))
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    absent = {**dict.fromkeys(_NAMES, 0.0), "guessing": math.nan}
    return [{**absent, "examples": old.get("seen", 0), **old} for old in found]


def for_workers(kept: list[Counters], workers: int) -> list[Counters]:
    """As they were, if there are as many workers; else the counts divided evenly, and times and losses as for all."""
    if len(kept) == workers:
        return kept
    most = {name: max(counters[name] for counters in kept) for name in _NAMES}
    counts = {name: int(sum(counters[name] for counters in kept)) for name in vars(Counts()) if name != "largest_pass"}
    others = {**most, **{name: fmean(counters[name] for counters in kept) for name in _LOSSES}}
    others |= {name: total // workers for name, total in counts.items()}
    first = others | {name: total - (workers - 1) * (total // workers) for name, total in counts.items()}
    return [first, *[others] * (workers - 1)]
