"""A study and the cluster → what each trial takes of it, and how many run at once. Of the driver alone: slots start
without it."""

from __future__ import annotations

import ray

from reranker.errors import Fault, InputError
from tune.execution.worker_group import TrialResources
from tune.study_file.study import Study
from tune.study_file.worker_device import cpus_per_worker


def concurrent_trials(resources: TrialResources) -> int:
    """How many trials the cluster holds at once, at least one."""
    have = ray.cluster_resources()
    by_cpu = have.get("CPU", 0) // max(1, resources.cpus)
    by_gpu = have.get("GPU", 0) // resources.gpus if resources.gpus else by_cpu
    return max(1, int(min(by_cpu, by_gpu)))


def trial_resources(study: Study, gpu_part: float = 1.0) -> TrialResources:
    """What a trial takes; `auto` is a GPU a worker where the cluster has any, or the part of one that holds it.

    Workers that train together take whole ones: their collectives refuse to meet twice on one device.

    Args:
        gpu_part: what `tune.study_file.memory_plan` found that the largest model needs.

    Raises:
        InputError: the cluster does not hold one trial.
    """
    wanted, have = study.resources, ray.cluster_resources()
    gpus = wanted.gpus_per_trial
    part = gpu_part if wanted.workers == 1 else 1.0
    per_worker = part * (have.get("GPU", 0) > 0) if gpus == "auto" else gpus / wanted.workers
    cores = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    cpus = cpus_per_worker(study, cores, on_gpu=per_worker > 0)
    resources = TrialResources(wanted.workers, cpus, per_worker, wanted.idle_seconds)
    for name, needed in (("CPU", resources.cpus), ("GPU", resources.gpus)):
        if needed > have.get(name, 0):
            rule = f"a trial must fit the cluster, which has {have.get(name, 0):g} {name}s; it needs {needed:g}"
            raise InputError([Fault(rule, field="resources", hint="lower workers, cpus_per_worker or gpus_per_trial")])
    return resources
