"""Studies as a search leaves them, in a real MLflow store: what is delivered of them, and what the store then has."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from mlflow.tracking import MlflowClient

from reranker.config import TrialConfig
from reranker.metrics import METRIC_NAMES, Ranks, chance
from reranker.storage.atomic_files import write_file, write_yaml
from results.leaderboard import leaderboard
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from results.study.tracking_address import tracking_uri_of
from results.study.trial_origin import Origin
from tests.stored import keep_journal, report
from tune.mlflow_tracking.trials_to_runs import StudyMirror

USERS = [f"u{i:03d}" for i in range(300)]
numbers = itertools.count()


def figures(epoch: int, recall: float) -> dict[str, Any]:
    return {
        **dict.fromkeys(METRIC_NAMES, recall), "epoch": epoch, "train_loss": 3 - recall, "val_loss": 3 - recall,
        "label_mass": 0.9, "seconds_per_list": 0.01, "hit": 0.8, "retrieved/recall_at_1": recall / 0.8,
        "seconds": 10.0 * epoch, "tokens_per_second": 1e4, "peak_memory_mb": 500.0,
        "applied/learning_rate": 1e-2, "applied/optimizer_steps": 250 * epoch, "applied/examples": 4000 * epoch, "applied/flops_per_list": 1e9,
    }  # fmt: skip


def ranks(mean: float) -> Ranks:
    drawn = np.random.default_rng(0).poisson(mean, size=len(USERS))
    return Ranks(np.minimum(drawn, 19).astype(np.int64), np.zeros(len(USERS), np.int64))


def first_for(share: float) -> Ranks:
    return Ranks(np.where(np.arange(len(USERS)) < share * len(USERS), 0, 19), np.zeros(len(USERS), np.int64))


def add_trial(study: StudyFolder, number: int, recalls: list[float], *, origin: str = "", **knobs):
    """A trial that has finished an epoch for each of `recalls`, the share of users whose true item stood first; the others'
    stood last, so that all metrics are the same."""
    values: dict[str, Any] = {"model": "demo-tiny", "learning_rate": 10.0**-number / 100, "epochs": 3} | knobs
    study.start_trial(number, TrialConfig(**values), Origin.parse(origin))
    for epoch, recall in enumerate(recalls, start=1):
        report(study.trial(number), USERS, first_for(recall), **figures(epoch, recall))
    study.trial(number).adapter.mkdir(exist_ok=True)
    (study.trial(number).adapter / "adapter_config.json").write_text("{}")
    study.write_status(number, TrialStatus.COMPLETED)


def add_baseline(study: StudyFolder, name: str, mean: float) -> None:
    study.baseline(name).path.mkdir(parents=True)
    study.baseline(name).keep_ranks(USERS, ranks(mean))


def make_study(runs: Path, store: str) -> StudyFolder:
    """Three trials: one whose middle epoch is the best, one stopped, one failed before its first epoch."""
    number = next(numbers)
    folder = StudyFolder.create(runs, f"films {number}")
    folder.write_manifest(
        {
            "study_id": f"abc{number}", "metric": "ndcg_at_10", "knobs": ["learning_rate", "model"],
            "references": {"chance": chance(20)},
            "best_reachable_recall_at_1": 0.49, "tags": {"data_fingerprint": "f00", "code_version": "0.1.0"},
            "plan": {"metric": "ndcg_at_10", "trials": 3, "validation_lists": 2000}, "tracking_uri": store,
        }
    )  # fmt: skip
    space = {"learning_rate": {"log_uniform": [1e-5, 1e-1]}, "model": {"choice": ["demo-tiny", "demo-small"]}}
    write_yaml(
        folder.study_file, json.dumps({"study": {"name": folder.name}, "data": {"source": "demo"}, "space": space})
    )
    add_baseline(folder, "popularity", mean=6.0)
    add_trial(folder, 0, [0.30, 0.41, 0.35])
    add_trial(folder, 1, [0.12])
    add_trial(folder, 2, [])
    folder.write_status(1, TrialStatus.PRUNED)
    folder.write_status(2, TrialStatus.FAILED, cause="diverged in epoch 1")
    write_file(folder.leaderboard, leaderboard(folder).to_csv(index=False))
    folder.write_ending("", complete=True)
    return folder


class Seen:
    """What the store has of a study now: runs by trial number, `study`, or a baseline's name."""

    def __init__(self, study: StudyFolder) -> None:
        self.client = MlflowClient(tracking_uri=tracking_uri_of(study))
        self.experiment = self.client.get_experiment_by_name(study.name)
        runs = self.client.search_runs([self.experiment.experiment_id])
        named = [
            ("study" if (tags := run.data.tags).get("kind") == "study" else tags.get("trial", run.info.run_name), run)
            for run in runs
        ]
        self.runs = dict(named)
        assert len(self.runs) == len(named)  # nothing has two runs

    def points(self, key: str, metric: str) -> list[tuple[float, float]]:
        """Steps are examples, of which an epoch has 4,000; those of the study's own run are numbers of readings."""
        history = self.client.get_metric_history(self.runs[key].info.run_id, metric)
        return [(point.step if key == "study" else point.step / 4000, point.value) for point in history]

    def tags(self, key: str) -> dict[str, str]:
        return self.runs[key].data.tags

    def metrics(self, key: str) -> dict[str, float]:
        return self.runs[key].data.metrics

    def artifacts(self, key: str) -> set[str]:
        return {artifact.path for artifact in self.client.list_artifacts(self.runs[key].info.run_id)}


def deliver(study: StudyFolder, *, ended: bool = True) -> Seen:
    """By a new process, which knows nothing but the store."""
    StudyMirror(study, tracking_uri_of(study)).bring_up(ended=ended)
    return Seen(study)


def by_command(study: StudyFolder) -> str:
    """What `tune.mlflow_tracking.trials_to_runs` prints, in a process of its own: MLflow remembers where it has put what."""
    keep_journal(study)
    command = [sys.executable, "-m", "tune.tracking", str(study.path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def local(address: str) -> Path:
    return Path(unquote(urlsplit(address).path))
