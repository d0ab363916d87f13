"""What a trial costs besides its training: on a slot, and with new worker processes for each trial.

    python -m bench.trial [--quick]

The first table runs the search itself, one trial at a time with four optimiser steps each, in both isolations, and
takes from the journal how long trials were under way (the first of a slot apart). The second trains again and again in
one process, as a slot does, and compares the last trainings with the first ones: time to the first step, and memory.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import psutil
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from bench.common import arguments, machine, write
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.modeling.model_cache import BaseModels
from reranker.training.sft import fine_tune
from results.study.study_folder import StudyFolder

STUDY = """
study: {{name: {isolation}, trials: {trials}, concurrency: 1, scheduler: none}}
data: {{source: demo, users: 64, interactions_per_user: 5}}
resources: {{isolation: {isolation}}}
fixed: {{model: demo-tiny, epochs: 1, examples_per_user: 1}}
space:
  learning_rate: {{log_uniform: [1.0e-4, 1.0e-2]}}
"""


def trials_of_a_search(isolation: str, trials: int) -> list[tuple[float, float]]:
    """(seconds under way, seconds of them in training and scoring) of each trial but the first."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_text(STUDY.format(isolation=isolation, trials=trials), encoding="utf-8")
        command = [sys.executable, "tune/run_search.py", str(file), "--runs", folder, "--quiet"]
        subprocess.run(command, check=True, capture_output=True)
        study = StudyFolder(Path(folder) / isolation)
        storage = JournalStorage(JournalFileBackend(str(study.journal)))
        told = optuna.load_study(study_name=isolation, storage=storage).trials
        spans = [(trial.datetime_complete - trial.datetime_start).total_seconds() for trial in told]
        trained = [trial.reports[-1]["seconds"] for trial in study.trials()]
    return list(zip(spans, trained, strict=True))[1:]


def trainings_in_one_process(count: int) -> list[tuple[float, float, float]]:
    """(seconds to the first step, seconds in all, resident MiB afterwards) of each."""
    torch.set_num_threads(1)
    data, bases = RerankingData.prepare(DemoData(users=64)), BaseModels()
    models, ranks = ("demo-tiny", "demo-small"), (4, 8, 16)
    return [
        _train(TrialConfig(model=models[n % 2], lora_rank=ranks[n % 3], epochs=1, examples_per_user=1), data, bases)
        for n in range(count)
    ]


def _train(config: TrialConfig, data: RerankingData, bases: BaseModels) -> tuple[float, float, float]:
    steps = []

    def at_each_step() -> bool:
        steps.append(time.perf_counter())
        return False

    began = time.perf_counter()
    fine_tune(config, data, bases=bases, should_stop=at_each_step)
    resident = psutil.Process().memory_info().rss / 2**20
    return steps[0] - began, time.perf_counter() - began, resident


def main() -> None:
    """Print the table."""
    args = arguments(__doc__, quick="fewer trials").parse_args()
    quick = args.quick
    print(machine())

    print(f"\n{'isolation':<12}{'trials':>8}{'under way':>12}{'in training':>14}{'besides':>10}   (seconds, medians)")
    besides, told = {}, {}
    for isolation, trials in {"slot": 6 if quick else 11, "trial": 3 if quick else 6}.items():
        found = told[isolation] = trials_of_a_search(isolation, trials)
        under_way, training = (statistics.median(column) for column in zip(*found, strict=True))
        besides[isolation] = statistics.median(span - trained for span, trained in found)
        print(
            f"{isolation:<12}{len(found):>8}{under_way:>12.2f}{training:>14.2f}{besides[isolation]:>10.2f}", flush=True
        )
    print(f"{'ratio':<12}{besides['trial'] / besides['slot']:>43.1f}×")

    count = 20 if quick else 100
    found_here = trainings_in_one_process(count)
    print(f"\n{'trainings':<12}{'first step':>12}{'in all':>10}{'resident MiB':>14}   (seconds, medians)")
    for name, part in {"11 to 20": found_here[10:20], f"last 10 of {count}": found_here[-10:]}.items():
        first, whole, memory = (statistics.median(column) for column in zip(*part, strict=True))
        print(f"{name:<16}{first:>8.2f}{whole:>10.2f}{memory:>14.0f}")
    write(args, "trial", {"under_way_and_in_training_s": told, "first_step_s_whole_s_resident_mib": found_here})


if __name__ == "__main__":
    main()
