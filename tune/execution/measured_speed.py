"""A study's slowest model → how fast one of its workers is, measured on the cluster before the first trial."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import ray

from reranker.config import TrialConfig
from reranker.errors import RerankerError
from reranker.training.speed import Speed
from tune.execution.failure_cause import first_line
from tune.execution.worker_group import TrialResources


def measured_speed(config: TrialConfig, data: Any, resources: TrialResources) -> Speed | str:
    """The speed, or why it could not be measured, which no trial need stumble over.

    Args:
        data: a reference to the study's `RerankingData` in Ray's object store.
    """
    share = max(1, config.effective_batch // resources.workers)
    mine = config.model_copy(update={"effective_batch": share})
    task = _measure.options(num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker)
    try:
        speed: Speed = ray.get(task.remote(mine, [data], max(1, resources.cpus_per_worker)))
    except (ray.exceptions.RayError, RerankerError) as error:
        return first_line(error.cause if isinstance(error, ray.exceptions.RayTaskError) and error.cause else error)
    return speed


@ray.remote(max_retries=0, max_calls=1)  # type: ignore[untyped-decorator]
def _measure(config: TrialConfig, data: list[Any], threads: int) -> Speed:
    import torch

    from reranker.training.speed import measure_speed

    torch.set_num_threads(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        return measure_speed(config, ray.get(data[0]))
