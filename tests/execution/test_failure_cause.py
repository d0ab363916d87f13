"""Whose fault a failure is: the trial's own, or the machine's."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from ray import exceptions as ray_errors
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError

from reranker.errors import EnvironmentFault, TrainingError
from reranker.storage.atomic_files import DamagedFile, writing
from results.study.study_folder import StudyFolder
from tune.execution.failure_cause import MACHINE, machine_fault, root
from tune.terminal.exit_status import exit_code


def died(of: str) -> ray_errors.ActorDiedError:
    """As Ray says that an actor's process is gone."""
    return ray_errors.ActorDiedError(ActorDiedErrorContext(actor_id=b"0" * 16, error_message=of))


def written(code: int) -> EnvironmentFault:
    with pytest.raises(EnvironmentFault) as caught, writing(Path("/studies/a/epochs.jsonl")):
        raise OSError(code, os.strerror(code))
    return caught.value


def torch_could_not_write() -> EnvironmentFault:
    with pytest.raises(EnvironmentFault) as caught, writing(Path("/studies/a/state.tmp")):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    return caught.value


def within_a_task(cause: Exception) -> ray_errors.RayTaskError:
    return ray_errors.RayTaskError("step", f"Traceback …\n{type(cause).__name__}: {cause}", cause)


KILLED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR connection error code 2."
)
NODE = "The actor died because its node has died. Node Id: 1234"
OWNER = "The actor is dead because its owner has died. Owner worker exit type: SYSTEM_ERROR: Owner's node has crashed."

OF_THE_MACHINE = {
    "a full disk": (written(errno.ENOSPC), "cannot write /studies/a/epochs.jsonl: no space is left on the disk"),
    "a quota": (written(errno.EDQUOT), "the disk quota is used up"),
    "a broken disk": (written(errno.EIO), "the disk does not work"),
    "a full disk that Optuna or Tune come upon": (OSError(errno.ENOSPC, "No space left"), "no space is left"),
    "a full disk that torch cannot name": (torch_could_not_write(), "no space is left"),
    "a full disk in another process": (within_a_task(OSError(errno.ENOSPC, "No space left on device")), "no space"),
    "a full disk under Ray Train": (ControllerError(OSError(errno.ENOSPC, "No space left on device")), "no space"),
    "a file that is damaged": (DamagedFile("/studies/a/status.json", "is empty"), "/studies/a/status.json is empty"),
    "Ray's memory monitor": (ray_errors.OutOfMemoryError("low on memory"), "the host is short of memory"),
    "Ray's memory monitor under Ray Train": (
        WorkerGroupError("…", {0: WorkerHealthCheckFailedError("…", ray_errors.OutOfMemoryError("low on memory"))}),
        "the host is short of memory",
    ),
    "a node": (ray_errors.NodeDiedError("gone"), "a node of the Ray cluster is gone"),
    "the node of a worker": (WorkerGroupError("…", {1: died(NODE)}), "a node of the Ray cluster is gone"),
    "the node of the search": (died(OWNER), "a node of the Ray cluster is gone"),
    "the raylet": (ray_errors.LocalRayletDiedError(), "a node of the Ray cluster is gone"),
    "Ray's own processes": (ray_errors.RaySystemError("broken pipe"), "Ray does not answer any more"),
    "no room to start workers": (WorkerGroupStartupTimeoutError(1), "the workers could not be started"),
}  # fmt: skip


@pytest.mark.parametrize("case", OF_THE_MACHINE)
def test_what_the_machine_does_is_no_trial_s_fault(case):
    error, said = OF_THE_MACHINE[case]
    assert said in machine_fault(error)
    assert "\n" not in machine_fault(error)


OF_THE_TRIAL = {
    "a worker process that dies": died(KILLED),
    "a worker process that dies, as Ray Train tells it": WorkerGroupError(
        "…", {0: WorkerHealthCheckFailedError("A worker health check failed.", died(KILLED))}
    ),
    "a loss that is not finite": TrainingError("diverged in epoch 1"),
    "an exception in the training": within_a_task(ValueError("a bug")),
    "a model that cannot be loaded": EnvironmentFault("the model x cannot be loaded"),
    "nothing": None,
}


@pytest.mark.parametrize("case", OF_THE_TRIAL)
def test_what_a_trial_does_is_not_the_machine_s_fault(case):
    assert machine_fault(OF_THE_TRIAL[case]) == ""


def test_a_worker_that_the_system_kills_for_its_memory_is_not_the_trial_s_fault():
    error = WorkerGroupError("…", {0: WorkerHealthCheckFailedError("A worker health check failed.", died(KILLED))})
    assert machine_fault(error, killed_for_memory=True).startswith("the host was out of memory")
    assert machine_fault(TrainingError("diverged"), killed_for_memory=True) == ""


def test_a_worker_s_death_is_told_by_what_killed_it_and_not_by_who_noticed():
    error = WorkerGroupError("…", {0: WorkerHealthCheckFailedError("A worker health check failed.", died(KILLED))})
    assert type(root(error)) is ray_errors.ActorDiedError


def test_a_search_that_the_machine_has_ended_is_no_success(tmp_path):
    assert exit_code(StudyFolder.create(tmp_path, "a"), f"{MACHINE}: a node of the Ray cluster is gone") == 1
