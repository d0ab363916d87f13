"""All that is reached of Ray behind its public interface. `tests/execution/test_ray_private.py` says what an upgrade
breaks.

Imports within functions: a worker process imports this module first of all, for `own_dashboard` alone.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from reranker.command_line.redaction import masked_command, without_secrets

API_SERVER = "RAY_API_SERVER_ADDRESS"  # the variable that Ray's state API reads


@contextmanager
def loopback_only() -> Iterator[None]:
    """A Ray that is started meanwhile has the address 127.0.0.1: what Ray calls a node that others can't join.

    Its processes are told by a variable. Else the dashboard's page of Ray Train would look for the head at this machine's
    other address, in vain and for ever.
    """
    from ray._private import ray_constants

    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, variable = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(name)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[name] = False, "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if variable is None:
            del os.environ[name]
        else:
            os.environ[name] = variable


def is_of_one_machine() -> bool:
    """Whether this process belongs to a Ray that was started under `loopback_only`, so that no node can join it."""
    from ray._private import ray_constants

    return not ray_constants.ENABLE_RAY_CLUSTER


def shut_down() -> None:
    """`ray.shutdown`, during which no garbage is collected.

    Ray ends this process with code 1 and no word to the user when any other thread drops a reference to an object or an
    actor meanwhile. A collection does so, and Ray has a thread of its own that collects whenever a node is short of room.
    """
    gc.freeze()
    try:
        ray.shutdown()
    finally:
        gc.unfreeze()


def session_folder() -> Path:
    """Of this node's Ray, for files that end with it."""
    return Path(ray._private.worker.global_worker.node.get_session_dir_path())


def temporary_folder() -> str:
    """Where Ray puts its own folder unless it is told another one."""
    from ray._common.utils import get_default_system_temp_dir

    return str(get_default_system_temp_dir())


def running_address() -> str:
    """HOST:PORT of a cluster that runs on this machine, or that RAY_ADDRESS names.

    Raises:
        ConnectionError: there is none.
    """
    from ray._private.services import get_ray_address_from_environment

    return str(get_ray_address_from_environment("auto", None))


def dead_processes() -> tuple[set[str], str]:
    """Processes of a Ray that this process has started which are gone, and the folder of their logs."""
    node = ray._private.worker._global_node
    return ({name for name, _ in node.dead_processes()}, str(node.get_logs_dir_path())) if node else (set(), "")


def own_node() -> str:
    """A resource that the node of this process has one of, and no other node."""
    here = ray.get_runtime_context().get_node_id()
    return next(f"node:{node['NodeManagerAddress']}" for node in ray.nodes() if node["NodeID"] == here)


def own_dashboard() -> str:
    """HOST:PORT of the dashboard of the cluster that this worker belongs to; empty if it has none."""
    from ray._private import ray_constants

    gcs = ray._private.worker.global_worker.gcs_client
    key, namespace = ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD
    address = gcs.internal_kv_get(key, namespace, timeout=5)
    return address.decode() if address else ""


def token() -> str | None:
    """That of this user, by Ray's own rules of where it is, whether a cluster asks for it or not."""
    loader = ray._raylet.AuthenticationTokenLoader.instance()
    loader.reset_cache()
    try:
        return str(loader.get_raw_token(ignore_auth_mode=True)) if loader.has_token(ignore_auth_mode=True) else None
    finally:
        loader.reset_cache()  # with a token in it this process would refuse calls of a cluster that has none


def title_process(text: str) -> None:
    """What the dashboard's page of the cluster, and `ps`, call this process, until Ray calls it something else."""
    ray._raylet.setproctitle(f"ray::{text}")


def hide_secrets_of_command() -> None:
    """Have `ps` show this process's command without the secrets in it, which all users of a machine could read."""
    words = [sys.executable, *sys.argv]
    if without_secrets(words) != words:
        ray._raylet.setproctitle(masked_command(words))


def first_call_of_workers(function: str) -> dict[str, str]:
    """For a job's variables: what its processes call first, by its name in its module.

    The public `worker_process_setup_hook` is this variable, but leaves out the process that starts a job's command.
    """
    from ray._private import ray_constants

    return {ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR: function}


def read_settings_again() -> None:
    """Have this process, which read them on import, follow the variables as they are now."""
    ray._raylet.Config.initialize("")


def start_failures() -> tuple[type[Exception], ...]:
    """What Ray Train raises where workers could not be started."""
    from ray.train.v2._internal import exceptions

    return (
        exceptions.InsufficientClusterResourcesError,
        exceptions.WorkerGroupStartupFailedError,
        exceptions.WorkerGroupStartupTimeoutError,
    )


def wrapped_failures(error: BaseException) -> list[BaseException]:
    """The failures that one of Ray Train's own carries."""
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
    from ray.train.v2.api.exceptions import ControllerError

    if isinstance(error, WorkerGroupError):
        return list(error.worker_failures.values())
    if isinstance(error, ControllerError):
        return [error.controller_failure]
    if isinstance(error, WorkerHealthCheckFailedError):
        return [error.health_check_failure]
    return []


def is_alive(channel: Any, metadata: Any, timeout_s: float) -> None:
    """Ask what is behind a gRPC channel whether it is a cluster's head.

    Raises:
        grpc.RpcError: it is none, or wants a token.
    """
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
    stub.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=timeout_s, metadata=metadata)


def node_addresses(channel: Any, metadata: Any, timeout_s: float) -> set[str]:
    """Of the nodes of a cluster that are alive.

    Raises:
        grpc.RpcError: it does not answer.
    """
    from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc

    stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
    reply = stub.GetAllNodeInfo(gcs_service_pb2.GetAllNodeInfoRequest(), timeout=timeout_s, metadata=metadata)
    return {node.node_manager_address for node in reply.node_info_list if node.state == gcs_pb2.GcsNodeInfo.ALIVE}
