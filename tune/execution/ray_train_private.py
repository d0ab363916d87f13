"""All that is reached of Ray Train behind its public interface. `tests/execution/test_ray_private.py` says what an
upgrade breaks."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup


class InProcessTrainer(TorchTrainer):  # type: ignore[misc]
    """A `TorchTrainer` whose controller is a part of the actor that calls `fit`, and that starts nothing for data sets.

    Each process that Ray starts takes seconds of a core before it does anything. Of the five that Ray Train has beside
    a worker these are two. Outside an actor the controller is an actor of its own, as always.

    Args:
        worker_label: what Ray's pages call each of its workers.
    """

    def __init__(self, *args: Any, worker_label: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._worker_label = worker_label

    def _initialize_and_run_controller(self, **controller: Any) -> Any:
        if ray.get_runtime_context().get_actor_id() is None:
            return super()._initialize_and_run_controller(**controller)
        here = TrainController(**controller)
        here.worker_group_cls = _groups_of(_labelled(self._worker_label))
        asyncio.run(here.run())
        return here.get_result()

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if self.datasets or not isinstance(callback, DatasetsCallback)]


def _labelled(label: str) -> type[RayTrainWorker]:
    class TrainWorker(RayTrainWorker):  # type: ignore[misc]
        def __repr__(self) -> str:
            return label

    TrainWorker.__qualname__ = "TrainWorker"  # which Ray's pages show
    return TrainWorker


def _groups_of(worker_class: type[RayTrainWorker]) -> type[WorkerGroup]:
    class GroupOfLabelled(WorkerGroup):  # type: ignore[misc]
        _worker_cls = worker_class

    return GroupOfLabelled
