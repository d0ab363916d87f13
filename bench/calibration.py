"""How often a study's comparison claims what is not there, and how often it finds what is.

    python -m bench.calibration [--quick]

Searches are simulated by their per-user values; nothing is trained. They go through the comparison's own code: the
estimate that orders configurations (`results.statistics.seed_averages`) and the families of tests
(`results.compare.tests`). Each has 600 users, lists of 20, 8 or 64 trials, and four baselines. The noise of two rankers
correlates by .6, that of two reports of a trial by .92, which leaves them .8 of what a trial does not share with
others. In a search with ASHA a trial goes on beyond epochs 1, 3 and 9 if it is among the best third so far; with
replicates the best five are run with three other seeds; with a retriever three lists of ten lack their target, for
every ranker alike.

On pure noise all rankers are equally good, and a claim is wrong if it says that the winner beats a baseline, or that it
beats another trial. Where a difference is planted, every report of one trial is better than all others and all
baselines by 1.5 times the difference that the comparison calls detectable; found means that it is the winner and better
than every baseline.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.common import arguments, machine, write
from reranker.metrics import Ranks, ndcg_at_k
from results.statistics.comparison import Tests, tests
from results.statistics.paired_tests import smallest_detectable
from results.statistics.seed_averages import ConfigurationResult, best_first
from results.statistics.sign_flips import Ranker
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder

USERS, CANDIDATES, BASELINES = 600, 20, 4
SHARED, WITHIN = 0.6, 0.8  # of the noise: common to all rankers; and of the rest, common to a trial's reports
SKILL = 1.0  # by how much a target scores above other candidates, in standard deviations
MISSED = 0.3  # of a retriever's lists lack their target
RUNGS, REDUCTION = (1, 3, 9), 3
TOP, SEEDS = 5, 3  # of the replicates
RESAMPLES = 999
METRIC = "ndcg_at_10"
GAINS = ndcg_at_k(Ranks(np.arange(CANDIDATES), np.zeros(CANDIDATES, np.int64)), 10)

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """A kind of search."""

    trials: int
    epochs: int
    kind: str = ""  # ASHA, replicates or retrieval


CELLS = [
    *(Cell(trials, epochs) for trials, epochs in itertools.product((8, 64), (1, 3, 10, 20))),
    *(Cell(trials, 10, kind) for trials, kind in itertools.product((8, 64), ("ASHA", "replicates", "retrieval"))),
]


@dataclass(frozen=True, eq=False)
class Simulated(ConfigurationResult):
    """A configuration whose runs' values are drawn, [reports, users] each."""

    drawn: tuple[FloatArray, ...] = ()

    def ranker(self, metric: str) -> Ranker:
        """Its runs, each with its best report."""
        return Ranker(self.drawn, tuple(int(values.mean(axis=1).argmax()) for values in self.drawn))


def shares(skill: float) -> FloatArray:
    """How probable each rank of the target is, [candidates], the first one first."""
    at = np.linspace(-6, 6, 1201)
    beaten = stats.norm.sf(at + skill)  # by another candidate, where the target's noise is `at`
    found: FloatArray = stats.binom.pmf(np.arange(CANDIDATES)[:, None], CANDIDATES - 1, beaten) @ stats.norm.pdf(at)
    shares: FloatArray = found / found.sum()
    return shares


@functools.cache
def ends(skill: float) -> FloatArray:
    """Where the normal distribution is cut into the ranks, the first one first."""
    cuts: FloatArray = stats.norm.ppf(np.cumsum(shares(skill))[:-1])
    return cuts


def skill_for(gain: float) -> float:
    """The skill whose expected NDCG@10 lies by `gain` above that of SKILL, by bisection."""
    low, high = SKILL, SKILL + 3
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if (shares(middle) - shares(SKILL)) @ GAINS < gain else (low, middle)
    return low


class World:
    """The users of a search, and the luck that rankers share."""

    def __init__(self, cell: Cell, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.common = self.rng.normal(size=USERS)
        self.listed = self.rng.random(USERS) >= MISSED if cell.kind == "retrieval" else np.ones(USERS, bool)

    def run(self, skill: float, reports: int) -> FloatArray:
        """NDCG@10 of each user in each report, [reports, users]."""
        own, rest = self.rng.normal(size=USERS), self.rng.normal(size=(reports, USERS))
        noise = np.sqrt(WITHIN) * own + np.sqrt(1 - WITHIN) * rest
        seed_variance = np.sqrt(SHARED) * self.common + np.sqrt(1 - SHARED) * noise
        places = np.searchsorted(ends(skill), -seed_variance)
        return np.where(self.listed, GAINS[places], 0.0)


def searched(cell: Cell, skill: float, world: World) -> list[FloatArray]:
    """The reports of each trial; the first trial has this skill."""
    found = [world.run(skill if i == 0 else SKILL, cell.epochs) for i in range(cell.trials)]
    if cell.kind != "ASHA":
        return found
    seen: dict[int, list[float]] = {rung: [] for rung in RUNGS}
    for i in world.rng.permutation(cell.trials):
        for rung in (rung for rung in RUNGS if rung < cell.epochs):
            score = float(found[i][:rung].mean(axis=1).max())
            seen[rung].append(score)
            if sum(other > score for other in seen[rung]) >= max(1, len(seen[rung]) / REDUCTION):
                found[i] = found[i][:rung]
                break
    return found


def configurations(cell: Cell, skill: float, world: World) -> list[ConfigurationResult]:
    """Those of a search, the best estimate first."""
    found: list[ConfigurationResult] = [_configuration(i, (run,)) for i, run in enumerate(searched(cell, skill, world))]
    ranked = best_first(found, METRIC)
    if cell.kind != "replicates":
        return ranked
    for configuration_result in ranked[:TOP]:
        number = configuration_result.trial.number
        again = (world.run(skill if number == 0 else SKILL, cell.epochs) for _ in range(SEEDS))
        found[number] = _configuration(number, (*configuration_result.ranker(METRIC).runs, *again))
    return best_first(found, METRIC)


def _configuration(number: int, runs: tuple[FloatArray, ...]) -> Simulated:
    stored = []
    for values in runs:
        epochs = [{"epoch": i, METRIC: float(score)} for i, score in enumerate(values.mean(axis=1), start=1)]
        stored.append(StoredTrial(number, {}, TrialStatus.COMPLETED, "", epochs))
    return Simulated(StudyFolder(Path()), METRIC, stored[0], tuple(stored[1:]), runs)


def search(cell: Cell, skill: float, seed: int) -> tuple[int, Tests, float]:
    """The winner, what is proven of it, and the difference to a baseline that the comparison calls detectable."""
    world = World(cell, seed)
    ranked = configurations(cell, skill, world)
    rankers = [configuration_result.ranker(METRIC) for configuration_result in ranked]
    baselines = {f"baseline {i}": world.run(SKILL, 1)[0] for i in range(BASELINES)}
    told = tests(rankers, baselines, RESAMPLES, seed)
    spread = max(float((rankers[0].values - values).std(ddof=1)) for values in baselines.values())
    return ranked[0].trial.number, told, smallest_detectable(spread, USERS, told.reach)


def claims(cell: Cell, skill: float, seed: int) -> tuple[bool, bool, bool]:
    """(the winner is said to beat a baseline, to beat another trial, is trial 0 and beats every baseline)."""
    best, told, _ = search(cell, skill, seed)
    better = [difference.proven and difference.mean > 0 for difference in told.against.values()]
    return any(better), len(told.tie_set) < cell.trials, best == 0 and all(better)


def main() -> None:
    """Print the table."""
    args = arguments(__doc__, quick="20 searches a cell, of 8 trials").parse_args()
    count = 20 if args.quick else 400
    print(f"{machine()}\n{count} simulated searches a cell, {USERS} users, {BASELINES} baselines\n")
    print(f"{'trials':>6}{'epochs':>8}{'':>12}{'beats a baseline':>18}{'beats a trial':>15}{'planted':>10}{'found':>8}")
    found: dict[str, Any] = {}
    for cell in CELLS:
        if args.quick and cell.trials > 8:
            continue
        planted = 1.5 * float(np.mean([search(cell, SKILL, seed)[2] for seed in range(5)]))
        skill = skill_for(planted / (1 - MISSED if cell.kind == "retrieval" else 1))
        noise = np.mean([claims(cell, SKILL, 1000 + seed) for seed in range(count)], axis=0)
        right = np.mean([claims(cell, skill, 5000 + seed)[2] for seed in range(count)])
        found[f"{cell.trials} trials, {cell.epochs} epochs {cell.kind}"] = [*noise[:2], planted, right]
        line = f"{cell.trials:>6}{cell.epochs:>8}{cell.kind:>12}{noise[0]:>18.1%}{noise[1]:>15.1%}{planted:>10.3f}"
        print(f"{line}{right:>8.1%}", flush=True)
    write(args, "calibration", found)


if __name__ == "__main__":
    main()
