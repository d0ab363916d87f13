"""`fine_tune` as the loop of a Ray Train worker: the one module of the package that knows Ray."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import train as ray_train
from ray.util import get_current_placement_group

from reranker.config import TrialConfig
from reranker.sft import EpochReport, fine_tune, worker_rank
from reranker.trial_folder import TrialFolder


@dataclass(frozen=True)
class WorkerJob:
    """What a worker group is to train.

    Attributes:
        data: a reference to the study's `RerankingData`, put once into Ray's object store.
        threads: torch threads of each worker; more than the CPUs assigned to it slows all of them down many times.
    """

    config: TrialConfig
    data: Any
    metric: str
    folder: TrialFolder
    threads: int


def train_worker(loop_config: dict[str, WorkerJob]) -> None:
    """Train one configuration as this rank of the group, its output going to the trial's log file.

    Reports after each epoch, on every rank alike, the figures of `EpochReport`, whether the epoch is the `best`, and
    the group's `placement_group`, which the search removes itself if it stops the trial.
    """
    job = loop_config["job"]
    torch.set_num_threads(job.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    group = get_current_placement_group()

    def report(epoch: EpochReport) -> bool:
        print(json.dumps(epoch.figures))
        group_id = group.id.hex() if group is not None else ""
        ray_train.report({**epoch.figures, "best": epoch.best, "placement_group": group_id})
        return True

    rank = worker_rank()
    log = job.folder.path / (f"train-{rank}.log" if rank else "train.log")
    with (
        log.open("a", encoding="utf-8", buffering=1) as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):
        fine_tune(job.config, ray.get(job.data), metric=job.metric, folder=job.folder, on_epoch=report)
