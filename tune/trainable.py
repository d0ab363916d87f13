"""A Tune trial → a Ray Train run of its own: N workers, a report an epoch, a cause when it fails.

`make_trainable` is the whole interface between the search and the way in which a trial is run: the search gets a Tune
trainable that takes `{"number", "values"}` and reports the figures of `reranker.sft.EpochReport` once an epoch.
"""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import train as ray_train
from ray import tune as ray_tune
from ray.exceptions import RayActorError
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.tune.integration.ray_train import TuneReportCallback

from reranker.config import TrialConfig
from reranker.errors import Fault, InputError, RerankerError
from reranker.trial_folder import TrialFolder
from reranker.worker import WorkerJob, train_worker
from results.study_folder import StudyFolder, TrialStatus
from tune.search_space import Study


@dataclass(frozen=True)
class TrialResources:
    """What one trial takes of the cluster."""

    workers: int
    cpus_per_worker: int
    gpus_per_worker: float

    @property
    def cpus(self) -> int:
        return self.workers * self.cpus_per_worker

    @property
    def gpus(self) -> float:
        return self.workers * self.gpus_per_worker


def make_trainable(study_folder: Path, data: Any, metric: str, resources: TrialResources) -> Any:
    """A Tune trainable that runs each trial as a Ray Train run.

    Args:
        data: a reference to the study's `RerankingData` in Ray's object store.
    """

    def trial(assignment: dict[str, Any]) -> None:
        os.environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "1"  # Train runs appear in the dashboard
        folder = StudyFolder(study_folder).trial(assignment["number"])
        job = WorkerJob(
            config=TrialConfig.model_validate(assignment["values"]),
            data=data,
            metric=metric,
            folder=folder,
            threads=max(1, resources.cpus_per_worker),
        )
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"job": job},
            scaling_config=ray_train.ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=_per_worker(resources),
            ),
            run_config=ray_train.RunConfig(
                name=folder.path.name,
                storage_path=str(study_folder / "ray"),
                callbacks=[TuneReportCallback()],
                failure_config=ray_train.FailureConfig(max_failures=0),
            ),
        )
        try:
            trainer.fit()
        except RayActorError:
            raise  # the search stopped the trial, or its controller died: the search itself says which
        except Exception as error:
            _record_failure(StudyFolder(study_folder), assignment["number"], folder, error)
            raise

    # The trial itself only waits for its workers: a sliver of the head node, or it would take the CPU they need.
    return ray_tune.with_resources(trial, ray_tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}]))


def concurrent_trials(resources: TrialResources) -> int:
    """How many trials the cluster holds at once, at least one."""
    have = ray.cluster_resources()
    by_cpu = have.get("CPU", 0) // max(1, resources.cpus)
    by_gpu = have.get("GPU", 0) // resources.gpus if resources.gpus else by_cpu
    return max(1, int(min(by_cpu, by_gpu)))


def trial_resources(study: Study) -> TrialResources:
    """What a trial takes; `auto` is one GPU a worker where the cluster has any.

    Raises:
        InputError: the cluster does not hold one trial.
    """
    wanted, have = study.resources, ray.cluster_resources()
    gpus = wanted.gpus_per_trial
    per_worker = float(have.get("GPU", 0) > 0) if gpus == "auto" else gpus / wanted.workers
    resources = TrialResources(wanted.workers, wanted.cpus_per_worker, per_worker)
    for name, needed in (("CPU", resources.cpus), ("GPU", resources.gpus)):
        if needed > have.get(name, 0):
            rule = f"a trial must fit the cluster, which has {have.get(name, 0):g} {name}s; it needs {needed:g}"
            raise InputError([Fault(rule, field="resources", hint="lower workers, cpus_per_worker or gpus_per_trial")])
    return resources


def _per_worker(resources: TrialResources) -> dict[str, float]:
    share: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        share["GPU"] = resources.gpus_per_worker
    return share


def _record_failure(study: StudyFolder, number: int, folder: TrialFolder, error: BaseException) -> None:
    """Leave the cause in the study's folder in one sentence, and the trace in the trial's log."""
    cause = error
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        cause = next(iter(error.worker_failures.values()))
        cause = getattr(cause, "cause", None) or cause.__cause__ or cause  # out of Ray's wrapping
    first_line = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    sentence = first_line if isinstance(cause, RerankerError) else f"{type(cause).__name__}: {first_line}"
    with (folder.path / "train.log").open("a", encoding="utf-8") as log:
        log.write("".join(traceback.format_exception(error)))
    study.write_status(number, TrialStatus.FAILED, cause=sentence, ours=getattr(cause, "exit_code", 1) == 1)
