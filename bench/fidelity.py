"""Synthetic learning curves: does early stopping find the best configuration sooner, and does it compare like with like?

    python bench/fidelity.py [--seeds 200]

The search's own sampler and scheduler run on curves that are computed in microseconds, so that hundreds of searches can
be compared. A curve has the traits that matter to early stopping: a rate and a rank that suit the task, a quality that
grows with the sum of rates so far, over-fitting after some epochs, an excess loss in proportion to the current rate
(which decays with a decaying schedule, and makes a short trial look good early), and the noise of a finite validation
set. Nothing is trained, and no time is measured: costs are epochs.
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from ray.tune.schedulers import TrialScheduler
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tune import search_space
from tune.ledger import PastTrial
from tune.schedulers import make_scheduler, progress
from tune.search_space import Study
from tune.searcher import make_sampler

WORKERS = 4
CHANCE = 0.227  # NDCG@10 of lists of 20
NOISE = 0.004  # of NDCG@10 with some thousand lists
FILE = """
study: {{name: simulated, trials: {trials}, seed: {seed}, scheduler: {scheduler}, sampler: {sampler}}}
data: {{source: demo}}
fixed: {{schedule: {schedule}}}
space:
  epochs: {{int: [1, 27]}}
  learning_rate: {{log_uniform: [1.0e-5, 1.0e-2]}}
  lora_rank: {{choice: [4, 8, 16, 32, 64, 128]}}
"""


def load(
    seed: int, schedule: str = "constant", scheduler: str = "asha", sampler: str = "tpe", trials: int = 64
) -> Study:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_text(FILE.format(**locals() | {"path": "", "folder": ""}), encoding="utf-8")
        return search_space.load(path)


class World:
    """One task: where its best rate and rank lie, how fast it is learnt, when it is over-fitted.

    The shape was fitted to curves of demo-tiny (docs/LOG.md): at the best rate NDCG@10 covers half of the way from
    chance in one epoch and 98 % of it in 18; five times that rate is ahead for five epochs and ends .04 lower; fifteen
    times that rate stays at chance.
    """

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng([seed, 1])
        self.rate = 10 ** draw.uniform(-4, -3)
        self.rank = 2 ** draw.uniform(2.5, 5.5)
        self.speed = draw.uniform(0.6, 1.2)
        self.overfit = draw.uniform(60, 200)  # in epochs at the best rate
        self.noise = np.random.default_rng([seed, 2])

    def curve(self, values: dict[str, Any]) -> list[float]:
        """True NDCG@10 after each epoch of a configuration."""
        horizon, off = values["epochs"], math.log10(values["learning_rate"] / self.rate)
        if off > 1.1:
            return [CHANCE] * horizon
        reachable = 0.70 - 0.004 * math.log2(values["lora_rank"] / self.rank) ** 2
        learnt, curve = 0.0, []
        for epoch in range(1, horizon + 1):
            share = 1.0
            if values["schedule"] == "cosine":
                share = 0.5 * (1 + math.cos(math.pi * (epoch - 0.5) / horizon))
            learnt += share * 10**off
            noise = 0.02 * (share * 10**off) ** 0.6  # of the steps, in proportion to the rate of the moment
            fitted = (reachable - CHANCE) * (1 - math.exp(-self.speed * learnt**0.6))
            curve.append(max(CHANCE, CHANCE + fitted - noise - 0.001 * max(0.0, learnt - self.overfit)))
        return curve

    def best(self, study: Study, draws: int = 4000) -> float:
        """The best of many random configurations, without noise."""
        draw = np.random.default_rng(0)
        best = 0.0
        for _ in range(draws):
            values = {
                "epochs": int(draw.integers(1, 28)),
                "learning_rate": 10 ** draw.uniform(-5, -2),
                "lora_rank": int(draw.choice([4, 8, 16, 32, 64, 128])),
                "schedule": study.fixed["schedule"],
            }
            best = max(best, *self.curve(values))
        return best


def search(study: Study, world: World) -> Iterator[tuple[int, float]]:
    """(epochs spent, true score of the incumbent) after each epoch of a simulated search on several workers."""
    optuna_study = optuna.create_study(direction="maximize")
    scheduler = make_scheduler(study)
    running: list[tuple[float, int]] = []
    live: dict[int, tuple[Any, PastTrial, list[float], list[float]]] = {}
    spent, incumbent = 0, (-1.0, 0.0)

    def begin(now: float) -> None:
        number = len(optuna_study.trials)
        if number >= study.settings.trials:
            return
        optuna_study.sampler = make_sampler(study, number)
        trial = optuna_study.ask()
        values = study.draw(trial)
        past = PastTrial(str(number), {"number": number, "values": values}, {})
        live[number] = trial, past, world.curve(values), []
        scheduler.on_trial_add(None, past)
        heapq.heappush(running, (now + 1, number))

    for _ in range(WORKERS):
        begin(0.0)
    while running:
        now, number = heapq.heappop(running)
        trial, past, curve, seen = live[number]
        seen.append(curve[len(seen)] + float(world.noise.normal(0, NOISE)))
        spent += 1
        epoch, epochs = len(seen), len(curve)
        trial.report(seen[-1], epoch)
        incumbent = max(incumbent, (seen[-1], curve[epoch - 1]))
        yield spent, incumbent[1]
        result = {"epoch": epoch, "progress": progress(epoch, epochs), study.metric: seen[-1]}
        stopped = scheduler.on_trial_result(None, past, result) == TrialScheduler.STOP
        if not stopped and epoch < epochs:
            heapq.heappush(running, (now + 1, number))
            continue
        scheduler.on_trial_complete(None, past, result)
        if epoch == epochs:
            optuna_study.tell(trial, max(seen))
        else:
            optuna_study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        begin(now)


def epochs_to_reach(study: Study, world: World, share: float = 0.99) -> tuple[float, float]:
    """Epochs until the incumbent's true score is within 1 % of the best there is (infinite if never); and in all."""
    goal = share * world.best(study)
    reached, spent = math.inf, 0
    for spent, score in search(study, world):
        if score >= goal and reached == math.inf:
            reached = spent
    return reached, spent


def rung_and_final(schedule: str, clock: str, seed: int, count: int = 200) -> tuple[float, float, float]:
    """Spearman's correlations over random configurations: rung 1 with the end, horizon with rung 1, with the end."""
    world, draw = World(seed), np.random.default_rng([seed, 3])
    early, final, horizons = [], [], []
    for _ in range(count):
        values = {
            "epochs": int(draw.integers(3, 28)),
            "learning_rate": 10 ** draw.uniform(-5, -2),
            "lora_rank": int(draw.choice([4, 8, 16, 32, 64, 128])),
            "schedule": schedule,
        }
        curve = world.curve(values)
        at = 3 if clock == "epoch" else max(1, math.ceil(len(curve) / 3))
        early.append(curve[at - 1] + world.noise.normal(0, NOISE))
        final.append(max(curve))
        horizons.append(len(curve))
    pairs = ((early, final), (horizons, early), (horizons, final))
    first, second, third = (float(spearmanr(a, b).statistic) for a, b in pairs)
    return first, second, third


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=200)
    seeds = parser.parse_args().seeds
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    import warnings

    warnings.filterwarnings("ignore")

    print(f"Epochs until the incumbent is within 1 % of the best configuration, {seeds} seeds, {WORKERS} at a time")
    print(f"{'search':<34}{'reached':>9}{'median':>8}{'quarter':>9}{'3 quarters':>12}{'random / this':>15}")
    kinds = {
        "random, every trial to its end": ("none", "random", 200),
        "TPE, every trial to its end": ("none", "tpe", 200),
        "random, ASHA": ("asha", "random", 600),
        "TPE, ASHA": ("asha", "tpe", 200),
        "TPE, Hyperband": ("hyperband", "tpe", 200),
    }
    base: list[float] = []
    for name, (scheduler, sampler, trials) in kinds.items():
        needed = [
            epochs_to_reach(load(seed, scheduler=scheduler, sampler=sampler, trials=trials), World(seed))[0]
            for seed in range(seeds)
        ]
        base = base or needed
        low, middle, high = (float(np.quantile(needed, q, method="lower")) for q in (0.25, 0.5, 0.75))
        reached = np.mean(np.isfinite(needed))
        ratio = float(np.quantile(base, 0.5, method="lower")) / middle
        print(f"{name:<34}{reached:>9.0%}{middle:>8.0f}{low:>9.0f}{high:>12.0f}{ratio:>14.1f}×", flush=True)

    print("\nRank correlation of 200 random configurations (Spearman, mean over seeds)")
    print(
        f"{'schedule, clock of the rungs':<34}{'rung 1, end':>12}{'epochs, rung 1':>16}{'epochs, end':>13}{'bias':>8}"
    )
    for schedule, clock in (("constant", "epoch"), ("cosine", "epoch"), ("cosine", "progress")):
        found = np.array([rung_and_final(schedule, clock, seed) for seed in range(seeds)]).mean(axis=0)
        name = f"{schedule}, {clock}"
        print(f"{name:<34}{found[0]:>12.2f}{found[1]:>16.2f}{found[2]:>13.2f}{found[1] - found[2]:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
