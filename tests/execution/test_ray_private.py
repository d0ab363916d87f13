"""What the search needs of Ray behind its public interface; a failure names what an upgrade of Ray has changed.

What a running Ray says is tested in `test_ray_cluster.py`, `test_lost_ray.py` and `test_failure_cause.py`.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray._private import ray_constants
from ray.train import WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer, config
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker

from tune.execution import ray_private
from tune.execution.ray_train_private import InProcessTrainer, TorchWorkers

CHANGED = f"Ray {ray.__version__} has changed what tune/execution/ray_private.py reaches: "
TRAIN_CHANGED = CHANGED.replace("ray_private", "ray_train_private")
PROJECT = Path(__file__).resolve().parents[2]


def test_the_variable_of_the_state_api_is_the_one_that_it_reads():
    assert ray_private.API_SERVER == ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE, CHANGED + "its name"


def test_whether_a_node_can_be_joined_is_set_for_a_while():
    assert ray_constants.ENABLE_RAY_CLUSTER, CHANGED + "the constant for clusters"
    assert not ray_private.is_of_one_machine()
    with ray_private.loopback_only():
        assert not ray_constants.ENABLE_RAY_CLUSTER
        assert ray_private.is_of_one_machine()
        assert os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] == "0", "for the processes that it starts"
    assert ray_constants.ENABLE_RAY_CLUSTER
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR not in os.environ


def test_the_address_of_a_cluster_can_be_given_by_the_environment(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert ray_private.running_address() == "10.0.0.1:6379", CHANGED + "how a running cluster is found"


def test_the_folder_for_temporary_files_follows_the_system_s(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert ray_private.temporary_folder() == str(tmp_path), CHANGED + "where Ray keeps its own folder"


def test_a_token_is_found_where_ray_looks_for_it(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ab" * 32)
    assert ray_private.token() == "ab" * 32, CHANGED + "the loader of tokens"


def test_a_process_gets_the_title_that_it_is_given():
    before = ray._raylet.getproctitle()
    try:
        ray_private.title_process("trial 3 · epoch 2/4")
        assert ray._raylet.getproctitle() == "ray::trial 3 · epoch 2/4", CHANGED + "how a process is titled"
    finally:
        ray._raylet.setproctitle(before)


def test_settings_are_read_again_by_a_call_that_ray_has():
    assert callable(getattr(ray._raylet.Config, "initialize", None)), CHANGED + "how settings are read"
    ray_private.read_settings_again()


def test_a_node_knows_the_folder_of_its_session():
    assert callable(getattr(ray._private.node.Node, "get_session_dir_path", None)), CHANGED + "a session's folder"


def test_before_ray_is_started_no_process_is_missed():
    assert ray_private.dead_processes() == (set(), ""), CHANGED + "the node that this process has started"


@pytest.mark.parametrize("failure", ray_private.start_failures(), ids=lambda failure: failure.__name__)
def test_workers_that_cannot_start_raise_what_is_expected(failure):
    assert issubclass(failure, Exception), CHANGED + "the exceptions of a group that does not start"


def test_the_failures_of_a_group_of_workers_are_unwrapped():
    inner = ValueError("inner")
    assert ray_private.wrapped_failures(WorkerGroupError("failed", {0: inner})) == [inner], CHANGED + "WorkerGroupError"
    assert ray_private.wrapped_failures(inner) == []


def test_workers_meet_by_what_ray_has_for_it():
    parameters = inspect.signature(config._setup_torch_process_group).parameters
    needed = {"backend", "world_rank", "world_size", "init_method"}
    assert needed <= set(parameters), TRAIN_CHANGED + "how a process group is set up"
    assert all(parameters[name].default is not inspect.Parameter.empty for name in set(parameters) - needed)
    assert not inspect.signature(config._set_torch_distributed_env_vars).parameters, TRAIN_CHANGED + "what sets RANK"
    assert "destroy_process_group" in inspect.signature(config._shutdown_torch).parameters, TRAIN_CHANGED + "the end"
    theirs, ours = TorchConfig(), TorchWorkers()
    assert theirs.backend_cls.share_cuda_visible_devices == ours.backend_cls.share_cuda_visible_devices
    assert theirs.framework == ours.framework, TRAIN_CHANGED + "what a run is called"
    assert theirs.train_func_context is config.TorchConfigContextManager, TRAIN_CHANGED + "what a worker trains within"


def test_a_slot_imports_no_torch():
    script = "import sys, tune.execution.trial_runner; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=PROJECT)


def test_the_trainer_has_what_a_slot_does_in_its_own_way():
    changed = TRAIN_CHANGED
    for name in ("_initialize_and_run_controller", "_create_default_callbacks"):
        assert callable(getattr(TorchTrainer, name, None)), changed + f"TorchTrainer.{name}"
    assert inspect.iscoroutinefunction(TrainController.run), changed + "how a controller is run"
    assert callable(TrainController.get_result), changed + "how a controller's result is asked for"
    assert TrainController.worker_group_cls._worker_cls is RayTrainWorker, changed + "where its workers' class stands"
    for name in ("after_controller_start", "_maybe_send_resource_request"):
        assert callable(getattr(FixedScalingPolicy, name, None)), changed + f"FixedScalingPolicy.{name}"
    trainer = InProcessTrainer(lambda: None, worker_label="worker")
    kinds = [type(callback) for callback in trainer._create_default_callbacks()]
    assert PlacementGroupCleanerCallback in kinds, changed + "what frees resources after a controller that was killed"
    assert DatasetsCallback not in kinds
    assert DatasetsCallback in [type(callback) for callback in TorchTrainer(lambda: None)._create_default_callbacks()]


def test_the_variable_of_what_workers_call_first_is_the_one_that_they_read():
    variable = ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR
    assert ray_private.first_call_of_workers("a.b") == {variable: "a.b"}, CHANGED + "the hook of its workers"
