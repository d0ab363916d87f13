"""How often a study's comparison claims what is not there, and how often it finds what is.

    python -m bench.calibration [--quick]

Searches are simulated by their per-user ranks; nothing is trained. Each has 600 users, 8 or 64 trials that share most of their
luck with a user (the noise between two rankers correlates by .6), and four baselines. On pure noise all of them are equally
good, and a claim is wrong if the comparison says that the best trial beats a baseline, or that it beats another trial.
Where a difference is planted, one trial is better than all others and all baselines by 1.5 times the difference that
`results.significance` calls detectable for as many comparisons; found means that it is the winner and better than every
baseline.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common import arguments, machine, write
from reranker.metrics import Ranks, ndcg_at_k
from results.compare import tests
from results.significance import smallest_detectable

USERS, CANDIDATES, BASELINES, SHARED = 600, 20, 4, 0.6
SKILL = 1.0  # by how much a target scores above other candidates, in standard deviations

FloatArray = NDArray[np.float64]


def values(skills: FloatArray, rng: np.random.Generator, users: int = USERS) -> FloatArray:
    """NDCG@10 of each user under each ranker, [rankers, users]."""
    common = rng.normal(size=(users, CANDIDATES))
    own = rng.normal(size=(len(skills), users, CANDIDATES))
    scores = np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * own
    scores[:, :, 0] += skills[:, None]
    greater = (scores[:, :, 1:] > scores[:, :, :1]).sum(axis=2)
    return np.array([ndcg_at_k(Ranks(row, np.zeros_like(row)), 10) for row in greater])


def skill_for(gain: float) -> float:
    """The skill whose expected NDCG@10 lies by `gain` above that of SKILL, by bisection on many users."""
    low, high = SKILL, SKILL + 3
    for _ in range(20):
        middle = (low + high) / 2
        base, better = values(np.array([SKILL, middle]), np.random.default_rng(1), 100_000).mean(axis=1)
        low, high = (middle, high) if better - base < gain else (low, middle)
    return low


def search(trials: int, skill: float, seed: int) -> tuple[bool, bool, bool]:
    """(the winner is said to beat a baseline, to beat another trial, is trial 0 and beats every baseline)."""
    skills = np.full(trials + BASELINES, SKILL)
    skills[0] = skill
    found = values(skills, np.random.default_rng(seed))
    best, *others = np.argsort(-found[:trials].mean(axis=1), kind="stable")
    baselines = {f"baseline {i}": row for i, row in enumerate(found[trials:])}
    against, apart = tests([found[best], *(found[i] for i in others)], baselines)
    better = [against[0, name].proven and against[0, name].mean > 0 for name in baselines]
    return any(better), any(difference.proven for difference in apart.values()), best == 0 and all(better)


def main() -> None:
    args = arguments(__doc__, quick="20 searches each, of 8 trials").parse_args()
    count = 20 if args.quick else 200
    print(f"{machine()}\n{count} simulated searches each, {USERS} users, {BASELINES} baselines\n")
    print(f"{'trials':>7}{'difference':>12}{'beats a baseline':>18}{'beats a trial':>15}{'found':>8}")
    spread = float(np.diff(values(np.full(2, SKILL), np.random.default_rng(2), 100_000), axis=0).std())
    found: dict[str, Any] = {}
    for trials in (8,) if args.quick else (8, 64):
        planted = 1.5 * smallest_detectable(spread, USERS, trials * BASELINES)
        for gain in (0.0, planted):
            skill = skill_for(gain) if gain else SKILL
            told = np.array([search(trials, skill, 1000 + seed) for seed in range(count)])
            rates = told.mean(axis=0)
            found[f"{trials} trials, +{gain:.4f}"] = rates.tolist()
            right = f"{rates[2]:.1%}" if gain else "-"
            print(f"{trials:>7}{gain:>12.4f}{rates[0]:>18.1%}{rates[1]:>15.1%}{right:>8}", flush=True)
    write(args, "calibration", found)


if __name__ == "__main__":
    main()
