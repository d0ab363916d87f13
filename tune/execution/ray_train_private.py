"""All that is reached of Ray Train behind its public interface. `tests/execution/test_ray_private.py` says what an
upgrade breaks."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.execution.controller import TrainController


class InProcessTrainer(TorchTrainer):  # type: ignore[misc]
    """A `TorchTrainer` whose controller is a part of the actor that calls `fit`, and that starts nothing for data sets.

    Each process that Ray starts takes seconds of a core before it does anything. Of the five that Ray Train has beside
    a worker these are two. Outside an actor the controller is an actor of its own, as always.
    """

    def _initialize_and_run_controller(self, **controller: Any) -> Any:
        if ray.get_runtime_context().get_actor_id() is None:
            return super()._initialize_and_run_controller(**controller)
        here = TrainController(**controller)
        asyncio.run(here.run())
        return here.get_result()

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if self.datasets or not isinstance(callback, DatasetsCallback)]
