"""All that is reached of Ray Train behind its public interface. `tests/execution/test_ray_private.py` says what an
upgrade breaks."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup
from ray.train.v2._internal.util import TrainingFramework
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from tune.execution import ray_private

_PART_S = 30.0  # for workers to leave their process group, as Ray has it


class InProcessTrainer(DataParallelTrainer):  # type: ignore[misc]
    """What a `TorchTrainer` is, with its controller as a part of the actor that calls `fit`, and no process in vain.

    Each process that Ray starts takes seconds of a core before it does anything, and most of them are started one after
    the other. Of the five that Ray Train has beside a worker three are left out: that of the controller, that for data
    sets, and that which watches the controller and frees its workers' resources after its death, with which a search
    ends anyway; so is, where no node can join, the one that asks an autoscaler for nodes. The actor does not import
    torch, which takes seconds and 200 MB; workers do. Outside an actor the controller is an actor of its own, as always.

    Args:
        worker_label: what Ray's pages call each of its workers.
    """

    def __init__(self, *args: Any, worker_label: str, **kwargs: Any) -> None:
        super().__init__(*args, backend_config=TorchWorkers(), **kwargs)
        self._worker_label = worker_label
        self._groups: list[WorkerGroup] = []  # that were begun

    def kill_workers(self) -> None:
        """At once, whatever they are doing, even if they don't answer; `fit` then fails."""
        for group in self._groups:
            if group.has_started():
                for worker in group.get_workers():
                    ray.kill(worker.actor)

    def _initialize_and_run_controller(self, **controller: Any) -> Any:
        if ray_private.is_of_one_machine():
            controller["scaling_policy"] = _AsksForNoNodes(self.scaling_config)
        if not _is_in_an_actor():
            return super()._initialize_and_run_controller(**controller)
        here = TrainController(**controller)
        here.worker_group_cls = _groups_of(_labelled(self._worker_label), self._groups)
        asyncio.run(here.run())
        return here.get_result()

    def _create_default_callbacks(self) -> list[Any]:
        left_out = () if self.datasets else (DatasetsCallback,)
        if _is_in_an_actor():
            left_out += (PlacementGroupCleanerCallback,)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, left_out)]


def _is_in_an_actor() -> bool:
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None


class _AsksForNoNodes(FixedScalingPolicy):  # type: ignore[misc]
    """For a Ray that no node can join."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class TorchWorkers(BackendConfig):  # type: ignore[misc]
    """What a `TorchConfig` is, but workers of one node meet in a file, so that nothing listens on the network for them.

    Ray Train would have the first one listen on every interface (torch's `TCPStore`), without a token. It still does
    for workers of several nodes.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        """What sets up the process group."""
        return _TorchBackend

    @property
    def train_func_context(self) -> type[_OnItsDevice]:
        """What a worker trains within."""
        return _OnItsDevice

    @property
    def framework(self) -> TrainingFramework:
        """What the dashboard says of the run."""
        return TrainingFramework.TORCH


class _TorchBackend(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        if len({worker.metadata.node_id for worker in worker_group.get_workers()}) > 1:
            from ray.train.torch.config import TorchConfig

            TorchConfig().backend_cls().on_start(worker_group, TorchConfig())
            return
        file = worker_group.execute_single(0, _new_meeting_file)
        on_gpus = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _meet,
                    backend="nccl" if on_gpus else "gloo",
                    world_rank=rank,
                    world_size=len(worker_group),
                    init_method=file.as_uri(),
                )
                for rank in range(len(worker_group))
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        several = len(worker_group) > 1
        leaving = worker_group.execute_async(_part, destroy_process_group=several)
        ray.wait(leaving, num_returns=len(leaving), timeout=_PART_S)


class _OnItsDevice:
    """A worker's own GPU, if it has one, is the device of all that does not name one."""

    def __enter__(self) -> None:
        from ray.train.torch.config import TorchConfigContextManager

        TorchConfigContextManager().__enter__()

    def __exit__(self, *_: object) -> None:
        return None


def _new_meeting_file() -> Path:
    """In a folder of its own that no other user can enter, in that of Ray's session on this node, which ends with it."""
    return Path(tempfile.mkdtemp(prefix="torch-", dir=ray_private.session_folder())) / "meeting"


def _meet(**arguments: Any) -> None:
    from ray.train.torch import config

    config._set_torch_distributed_env_vars()
    config._setup_torch_process_group(**arguments)


def _part(*, destroy_process_group: bool) -> None:
    from ray.train.torch import config

    config._shutdown_torch(destroy_process_group)


def _labelled(label: str) -> type[RayTrainWorker]:
    class TrainWorker(RayTrainWorker):  # type: ignore[misc]
        def __repr__(self) -> str:
            return label

    TrainWorker.__qualname__ = "TrainWorker"  # which Ray's pages show
    return TrainWorker


def _groups_of(worker_class: type[RayTrainWorker], begun: list[WorkerGroup]) -> type[WorkerGroup]:
    class GroupOfLabelled(WorkerGroup):  # type: ignore[misc]
        _worker_cls = worker_class

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            begun.append(self)

    return GroupOfLabelled
