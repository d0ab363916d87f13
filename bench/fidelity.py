"""Synthetic learning curves: does early stopping find the best configuration sooner, and does it compare like with
like?

    python -m bench.fidelity [--seeds 200]

The search's own sampler and scheduler run on curves that are computed in microseconds, so that hundreds of searches can
be compared. Nothing is trained, and no time is measured: costs are epochs.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from ray.tune.schedulers import TrialScheduler
from scipy.stats import spearmanr

from tune.execution.trial_messages import Assignment
from tune.searching.optuna_searcher import make_sampler
from tune.searching.schedulers import make_scheduler
from tune.searching.trial_store import PastTrial
from tune.study_file import loading
from tune.study_file.study import Study
from tune.study_file.trial_clock import progress

WORKERS = 4
GOALS = (0.01, 0.02, 0.05)
MOST = 3000  # epochs of a search
SEARCHES: dict[str, dict[str, Any]] = {
    "random, no early stopping": {"sampler": "random", "scheduler": "none"},
    "TPE, no early stopping": {"scheduler": "none"},
    "TPE, plain ASHA": {"asha": {"grace": 1, "pace": 0}},
    "TPE, ASHA (the default)": {},
    "TPE, median": {"scheduler": "median"},
}
COMPARED = 200
LONGEST = 27
RANKS = [4, 8, 16, 32, 64, 128]
MODELS = ["qwen3-0.6b", "qwen3-1.7b", "qwen3-4b"]
POSITIONS = ["before", "after"]
CHANCE = 0.227  # NDCG@10 of lists of 20
NOISE = 0.004  # of NDCG@10 with some thousand lists
FILE = """
study: {settings}
data: {{source: demo}}
fixed: {{schedule: {schedule}}}
space:
  model: {{choice: {models}}}
  epochs: {{int: [1, {longest}]}}
  learning_rate: {{log_uniform: [1.0e-5, 1.0e-2]}}
  lora_rank: {{choice: {ranks}}}
  label_position: {{choice: {positions}}}
  history_length: {{int: [5, 40]}}
  lora_dropout: {{uniform: [0, 0.2]}}
"""


def load(seed: int, schedule: str, **settings: Any) -> Study:
    """The study of a synthetic search."""
    settings = {"name": "simulated", "trials": 250, "seed": seed, **settings}
    text = FILE.format(
        settings=json.dumps(settings),
        schedule=schedule,
        models=MODELS,
        longest=LONGEST,
        ranks=RANKS,
        positions=POSITIONS,
    )
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        return loading.load(Path(file.name))


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
        self.models = dict(zip(MODELS, draw.permutation([0.0, 0.015, 0.03]), strict=True))
        self.positions = dict(zip(POSITIONS, draw.permutation([0.0, 0.05]), strict=True))
        self.history = draw.uniform(5, 40)
        self.dropout = draw.uniform(0, 0.2)
        self.noise = np.random.default_rng([seed, 2])

    def curve(self, values: dict[str, Any]) -> list[float]:
        """True NDCG@10 after each epoch of a configuration."""
        horizon, off = values["epochs"], math.log10(values["learning_rate"] / self.rate)
        if off > 1.1:
            return [CHANCE] * horizon
        reachable = 0.70 - self.models[values["model"]] - self.positions[values["label_position"]]
        reachable -= 0.002 * math.log2(values["lora_rank"] / self.rank) ** 2
        reachable -= 0.015 * abs(values["history_length"] - self.history) / 35
        reachable -= 0.01 * abs(values["lora_dropout"] - self.dropout) / 0.2
        learnt, curve = 0.0, []
        for epoch in range(1, horizon + 1):
            share = 1.0
            if values["schedule"] == "cosine":
                share = 0.5 * (1 + math.cos(math.pi * (epoch - 0.5) / horizon))
            learnt += share * 10**off
            coarse = 0.01 * (10**off) ** 0.6 + 0.01 * (share * 10**off) ** 0.6  # steps too large; half of it heals
            fitted = (reachable - CHANCE) * (1 - math.exp(-self.speed * learnt**0.6))
            curve.append(max(CHANCE, CHANCE + fitted - coarse - 0.001 * max(0.0, learnt - self.overfit)))
        return curve

    def best(self) -> float:
        """The best configuration's score without noise; its other knobs are known, so only the rate is looked for."""
        values = {
            "model": min(self.models, key=lambda model: self.models[model]),
            "label_position": min(self.positions, key=lambda position: self.positions[position]),
            "lora_rank": min(RANKS, key=lambda rank: abs(math.log2(rank / self.rank))),
            "history_length": round(self.history),
            "lora_dropout": self.dropout,
            "epochs": LONGEST,
            "schedule": "constant",
        }
        rates = np.geomspace(1e-5, 1e-2, 200)
        return max(max(self.curve({**values, "learning_rate": rate})) for rate in rates)


def search(study: Study, world: World) -> Iterator[tuple[int, float]]:
    """(epochs spent, the best true score so far) after each epoch of a simulated search on several workers."""
    optuna_study = optuna.create_study(direction="maximize")
    scheduler = make_scheduler(study)
    running: list[tuple[float, int]] = []
    live: dict[int, tuple[Any, PastTrial, list[float], list[float]]] = {}
    spent, best = 0, 0.0

    def begin(now: float) -> None:
        number = len(optuna_study.trials)
        if number >= study.settings.trials:
            return
        optuna_study.sampler = make_sampler(study, number)
        trial = optuna_study.ask()
        config = study.draw(trial)
        past = PastTrial(str(number), Assignment(number, config).as_tune_config)
        live[number] = trial, past, world.curve(config.model_dump()), []
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
        best = max(best, curve[epoch - 1])
        yield spent, best
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


def epochs_to_reach(kind: str, seed: int) -> list[float]:
    """Epochs until a trial's true score was within each of GOALS of the best there is; infinite if it never was."""
    world = World(seed)
    best, reached = world.best(), [math.inf] * len(GOALS)
    for spent, score in search(load(seed, "constant", **SEARCHES[kind]), world):
        if spent > MOST:
            break
        reached = [
            min(before, spent) if score >= (1 - goal) * best else before
            for before, goal in zip(reached, GOALS, strict=True)
        ]
    return reached


def rung_and_end(schedule: str, clock: str, seed: int) -> tuple[float, float, float]:
    """Spearman's correlations over random configurations: rung with end, epochs with rung, epochs with end."""
    study, world = load(seed, schedule, sampler="random"), World(seed)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    early: list[float] = []
    final: list[float] = []
    epochs: list[int] = []
    while len(final) < COMPARED:
        curve = world.curve(study.draw(drawn.ask()).model_dump())
        if len(curve) < 3:  # ends before the rung
            continue
        at = 3 if clock == "epoch" else math.ceil(len(curve) / 3)
        early.append(curve[at - 1] + world.noise.normal(0, NOISE))
        final.append(max(curve))
        epochs.append(len(curve))
    pairs = ((early, final), (epochs, early), (epochs, final))
    first, second, third = (float(spearmanr(a, b).statistic) for a, b in pairs)
    return first, second, third


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=200)
    seeds = parser.parse_args().seeds
    with ProcessPoolExecutor(initializer=_quiet) as pool:
        _print_searches(pool, seeds)
        _print_correlations(pool, seeds)


def _print_searches(pool: ProcessPoolExecutor, seeds: int) -> None:
    print(f"Epochs until a trial is within … of the best configuration: median (searches that got there by {MOST:,})")
    print(f"{seeds} seeds, {WORKERS} trials at a time\n")
    print(f"{'search':<34}" + "".join(f"{goal:>16.0%}" for goal in GOALS) + f"{'random / this':>22}")
    reference: list[float] = []
    for kind in SEARCHES:
        reached = np.array(list(pool.map(epochs_to_reach, repeat(kind), range(seeds))))
        medians = [float(np.quantile(column, 0.5, method="lower")) for column in reached.T]
        shares = np.isfinite(reached).mean(axis=0)
        reference = reference or medians
        cells = [f"{median:.0f}" if math.isfinite(median) else f"> {MOST}" for median in medians]
        ratios = [_ratio(first, median) for first, median in zip(reference, medians, strict=True)]
        print(
            f"{kind:<34}"
            + "".join(f"{f'{cell} ({share:.0%})':>16}" for cell, share in zip(cells, shares, strict=True))
            + f"{'  '.join(ratios):>22}",
            flush=True,
        )


def _ratio(random: float, this: float) -> str:
    if not math.isfinite(this):
        return "-"
    return f"{random / this:.1f}" if math.isfinite(random) else f"> {MOST / this:.1f}"


def _print_correlations(pool: ProcessPoolExecutor, seeds: int) -> None:
    print(f"\nOrder of {COMPARED} random configurations (Spearman's correlation, mean of {seeds} seeds)\n")
    print(f"{'schedule, rung':<34}{'rung and end':>16}{'epochs and rung':>18}{'epochs and end':>18}")
    rungs = {
        "constant, epoch 3": ("constant", "epoch"),
        "cosine, epoch 3": ("cosine", "epoch"),
        "cosine, a third of its epochs": ("cosine", "progress"),
    }
    for name, (schedule, clock) in rungs.items():
        found = list(pool.map(rung_and_end, repeat(schedule), repeat(clock), range(seeds)))
        both, early, final = np.array(found).mean(axis=0)
        print(f"{name:<34}{both:>16.2f}{early:>+18.2f}{final:>+18.2f}", flush=True)


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore")


if __name__ == "__main__":
    main()
