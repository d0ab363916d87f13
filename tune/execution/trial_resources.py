"""A study and the cluster → what each trial takes of it, and how many run at once. Of the driver alone: slots start
without it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import ray

from reranker.errors import Fault, InputError
from tune.execution.worker_group import TrialResources
from tune.study_file.study import Study
from tune.study_file.worker_device import cpus_per_worker

_LOOK_S = 1.0  # how often the cluster is asked what it has


def concurrent_trials(resources: TrialResources) -> int:
    """How many trials the cluster holds at once, at least one."""
    pools = _nodes() if resources.one_node else [ray.cluster_resources()]
    return max(1, sum(_trials_in(pool, resources) for pool in pools))


def room_for_trials(study: Study, resources: TrialResources) -> Callable[[], int]:
    """How many trials may run at once, as nodes of the cluster come and go."""
    asked_at, count = -_LOOK_S, 1

    def room() -> int:
        nonlocal asked_at, count
        if time.monotonic() - asked_at > _LOOK_S:
            asked_at, count = time.monotonic(), concurrent_trials(resources)
        return min(count, study.settings.concurrency or count)

    return room


def _trials_in(pool: dict[str, float], resources: TrialResources) -> int:
    by_cpu = pool.get("CPU", 0) // max(1, resources.cpus)
    by_gpu = pool.get("GPU", 0) // resources.gpus if resources.gpus else by_cpu
    return int(min(by_cpu, by_gpu))


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def trial_resources(
    study: Study, gpu_part: float = 1.0, *, one_node: bool = False, mark: Path | None = None
) -> TrialResources:
    """What a trial takes; `auto` is a GPU a worker where the cluster has any, or the part of one that holds it.

    Workers that train together take whole ones: their collectives refuse to meet twice on one device.

    Args:
        gpu_part: what `tune.study_file.memory_plan` found that the largest model needs.
        one_node, mark: see `TrialResources`.

    Raises:
        InputError: the cluster does not hold one trial.
    """
    wanted, have = study.resources, ray.cluster_resources()
    gpus = wanted.gpus_per_trial
    part = gpu_part if wanted.workers == 1 else 1.0
    per_worker = part * (have.get("GPU", 0) > 0) if gpus == "auto" else gpus / wanted.workers
    cores = max(int(node.get("CPU", 0)) for node in _nodes())
    cpus = cpus_per_worker(study, cores, on_gpu=per_worker > 0)
    hang_s = 60 * wanted.hang_minutes or math.inf
    resources = TrialResources(wanted.workers, cpus, per_worker, wanted.idle_seconds, hang_s, one_node, mark)
    if one_node and not any(_trials_in(node, resources) for node in _nodes()):
        rule = f"without storage that all nodes share, a trial's {wanted.workers} workers must fit one node"
        raise InputError([Fault(rule, field="resources", hint="lower workers, or put --runs on shared storage")])
    for name, needed in (("CPU", resources.cpus), ("GPU", resources.gpus)):
        if needed > have.get(name, 0):
            rule = f"a trial must fit the cluster, which has {have.get(name, 0):g} {name}s; it needs {needed:g}"
            raise InputError([Fault(rule, field="resources", hint="lower workers, cpus_per_worker or gpus_per_trial")])
    return resources
