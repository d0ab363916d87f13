"""An exception → whose fault it is: the trial's own, or the machine's, which no trial is judged by."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ray import exceptions as ray_errors

from reranker.storage.atomic_files import DamagedFile, disk_fault
from tune.execution import ray_private

MACHINE = "a fault of the machine"  # how the ending of a search begins that such a fault has ended
NO_ANSWER = "Ray does not answer any more"
NODE_GONE = "a node of the Ray cluster is gone"
SLOT_GONE = "the process that waits for a trial's workers was killed; Ray's logs may say by what"
SHORT_OF_MEMORY = "the host is short of memory, so Ray ended a process of the search"
OUT_OF_MEMORY = "the host was out of memory, so the system killed a process of the search"
_MEMORY = (ray_errors.OutOfMemoryError, ray_errors.ObjectStoreFullError)
_NODE = (
    ray_errors.NodeDiedError,
    ray_errors.LocalRayletDiedError,
    ray_errors.ObjectLostError,
    ray_errors.TaskUnschedulableError,
    ray_errors.ActorUnschedulableError,
)
_CONTACT = (ray_errors.RaySystemError, ray_errors.RpcError, ray_errors.ActorUnavailableError)
_NODE_DEATH = re.compile(r"(node|owner) (has|was) (died|crashed|terminated|marked dead)", re.IGNORECASE)


class EndsAtOnce(BaseException):
    """Leaves Ray Tune's loop without its clean-up, which would wait for processes that are gone.

    An ordinary exception could be taken for a trial's failure on the way.

    Args:
        what: has failed, as a clause.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def machine_fault(error: BaseException | None, *, killed_for_memory: bool = False) -> str:
    """What of the machine has failed, as a clause; empty where the fault is the trial's own.

    A worker process that dies by itself is the trial's: a segmentation fault, say. The machine's are the disk, the
    memory of the host, and a node or a process of Ray that is gone.

    Args:
        killed_for_memory: whether the system has killed a process for want of memory meanwhile; see `memory_kills`.
    """
    for cause in _causes(error):
        if isinstance(cause, DamagedFile):
            return str(cause)
        if fault := disk_fault(cause):
            return fault
        if isinstance(cause, ray_errors.OutOfDiskError):
            return "no space is left on the disk that Ray keeps its objects on"
        if isinstance(cause, _MEMORY):
            return SHORT_OF_MEMORY
        if isinstance(cause, ray_errors.RayActorError) and killed_for_memory:
            return OUT_OF_MEMORY
        if isinstance(cause, _NODE) or (isinstance(cause, ray_errors.RayActorError) and _node_died(cause)):
            return NODE_GONE
        if isinstance(cause, _CONTACT):
            return NO_ANSWER
        if isinstance(cause, ray_private.start_failures()):
            return f"the workers could not be started ({first_line(cause)})"
    return ""


def root(error: BaseException) -> BaseException:
    """The failure that Ray's own ones are wrapped around."""
    return list(_causes(error))[-1]


def first_line(error: BaseException) -> str:
    """The exception's type and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def memory_kills() -> int:
    """How many processes the system has killed so far for want of memory: in our control group, else on the host."""
    for path in _counters():
        try:
            count = re.search(r"^oom_kill (\d+)$", path.read_text(encoding="ascii"), re.MULTILINE)
        except OSError:
            continue
        if count:
            return int(count[1])
    return 0


def cluster_fault() -> str:
    """Which process of a Ray that this one has started is gone, as a clause; empty while all are there.

    Some seconds after it Ray ends this process without a word, so it has to be noticed before.
    """
    dead, logs = ray_private.dead_processes()
    gone = sorted(dead & {"raylet", "gcs_server"})
    return f"Ray's process {gone[0]} on this machine is gone; its logs are in {logs}" if gone else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and all that it carries, the outermost first."""
    waiting, seen = [error], set[int]()
    while waiting:
        cause = waiting.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += ray_private.wrapped_failures(cause)
        if isinstance(cause, ray_errors.RayTaskError) and isinstance(cause.cause, BaseException):
            waiting.append(cause.cause)
        waiting.append(cause.__cause__)


def _node_died(error: ray_errors.RayActorError) -> bool:
    return error.preempted or bool(_NODE_DEATH.search(str(error)))


def _counters() -> Iterator[Path]:
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="utf-8").rpartition("::/")[2].strip()
    except OSError:
        group = ""
    yield Path("/sys/fs/cgroup") / group / "memory.events"
    yield Path("/proc/vmstat")
