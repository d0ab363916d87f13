"""Command-line wishes → a running Ray, our own on this machine or one that is joined, and its dashboard's address."""

from __future__ import annotations

import os
import secrets
import signal
import site
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

# Read when Ray is imported or its processes start.
_QUIET = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # how soon a worker's death is noticed
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else bytecode dumps flood the log
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a worker that is gone is noticed anyway; one process less a slot
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables, which `verbose` does not silence altogether
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # of a GPU: passes of many widths leave no holes behind
    "TOKENIZERS_PARALLELISM": "false",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: tune/searching/stop_rules.py
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial may fail before its first report
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own snapshots are not what a study is resumed from
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)

import psutil
import ray
from ray.job_config import JobConfig

from reranker.errors import EnvironmentFault, RerankerError
from tune.cluster import shipped_code
from tune.execution import ray_private
from tune.execution.cluster_address import find_cluster
from tune.execution.failure_cause import EndsAtOnce, cluster_fault
from tune.execution.free_port import check_port
from tune.execution.worker_setup import SET_UP

_SETTINGS = ("HF_HUB_OFFLINE", "HF_ENDPOINT")  # that nodes of a cluster get; secrets stay, since Ray shows them
_NETWORK = ("NCCL_", "GLOO_")
_LOOK_S = 0.2  # how often Ray's processes are looked at
_GRACE_S = 20.0  # for whoever looks by itself; 60 s after its loss Ray ends the process without a word
_TRIES = 2  # to start a Ray
_PATIENCE_S = 15.0  # for a joined cluster that does not answer


class RayLost(RerankerError, ConnectionError):
    """Ray ended during the search, which no trial is to blame for."""

    exit_code = 1


@dataclass(frozen=True)
class Cluster:
    """`dashboard` is a URL, empty where there is none; `logs` is where Ray's processes write; `token` whether it
    asks."""

    dashboard: str
    logs: str
    token: bool


@contextmanager
def cluster(
    address: str | None, dashboard_port: int | None, dashboard: bool = True, job_name: str = ""
) -> Iterator[Cluster]:
    """Ray for the time of the search; one that was started here is shut down at the end, and is of this machine alone.

    Args:
        address: of a running cluster, or "auto"; None starts a Ray of this machine's own.
        dashboard: whether that one has a dashboard.
        dashboard_port: on 127.0.0.1; None takes 8265 or the next free one.
        job_name: what the dashboard's list of jobs calls this process.

    Raises:
        EnvironmentFault: the port is taken, or no cluster answers.
        RayLost: Ray ended meanwhile.
    """
    job = JobConfig(metadata={"job_name": job_name} if job_name else None)
    try:
        context = _started(dashboard_port, dashboard, job) if address is None else _join(address, job)
    except EnvironmentFault:
        raise
    except Exception as error:
        raise EnvironmentFault(f"no Ray cluster could be reached at {address}: {_first_line(error)}") from error
    except KeyboardInterrupt:
        ray_private.shut_down()
        raise
    url = context.dashboard_url
    logs = os.path.join(context.address_info["session_dir"], "logs")
    watch = _Watch(context.address_info["gcs_address"], joined=address is not None)
    try:
        with watch.watching():
            yield Cluster(f"http://{url}" if url else "", logs, token=os.environ.get("RAY_AUTH_MODE") == "token")
    except BaseException as error:
        if watch.lost:
            raise RayLost(watch.lost) from error
        raise
    finally:
        ray_private.shut_down()


def try_task(timeout_s: float = 60) -> None:
    """Have a worker of the running Ray do something.

    Raises:
        ray.exceptions.RayError: it did not, or not in this time.
    """
    ray.get(ray.remote(lambda: os.getpid()).remote(), timeout=timeout_s)


def _runtime_env(variables: Mapping[str, str], *, dashboard: bool) -> dict[str, Any]:
    """Of all worker processes. Ray Train runs are told to the dashboard, by a process of Ray's own, if there is one."""
    return {
        "env_vars": {**_QUIET, "RAY_TRAIN_ENABLE_STATE_TRACKING": str(int(dashboard)), **variables},
        "worker_process_setup_hook": SET_UP,
    }


def _join(address: str, job: JobConfig) -> Any:
    """A running cluster, whose nodes get this code, and the settings of this process that they need."""
    head = find_cluster(address)
    settings = {name: value for name, value in os.environ.items() if name in _SETTINGS or name.startswith(_NETWORK)}
    with shipped_code.packages() as packages:
        return ray.init(
            address=head,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={**_runtime_env(settings, dashboard=True), "py_modules": packages},
            job_config=job,
        )


def _code_first() -> str:
    """PYTHONPATH for workers: where this code was imported from, if it is no installed package.

    Ray hands on the current folder alone. From elsewhere a checkout would search with its own code in the driver, and
    train with another one that is installed.
    """
    root, given = Path(__file__).resolve().parents[2], os.environ.get("PYTHONPATH", "")
    is_installed = root in (Path(path).resolve() for path in site.getsitepackages())
    return given if is_installed else os.pathsep.join(filter(None, [str(root), given]))


@contextmanager
def _terminal_of_its_own() -> Iterator[None]:
    """What is started meanwhile outlives a closed terminal, as it does Ctrl-C: it is for us to end it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def _started(dashboard_port: int | None, dashboard: bool, job: JobConfig) -> Any:
    """A Ray of this machine's own, at a second try if need be: on a busy machine one of its processes may take longer to
    start than another one waits for it.

    Raises:
        EnvironmentFault: the port is taken, or Ray does not start.
    """
    others = _processes_of_ray()
    tries_left = _TRIES
    while True:
        try:
            with _terminal_of_its_own():
                return _start(dashboard_port, dashboard, job)
        except EnvironmentFault:
            raise
        except Exception as error:  # Ray raises plain ones where its head or dashboard does not start in time
            ray_private.shut_down()
            _kill([process for process in _processes_of_ray() if process not in others])
            tries_left -= 1
            if not tries_left:
                hint = "the machine may be too busy, or be short of memory or disk"
                raise EnvironmentFault(f"Ray could not be started ({_first_line(error)}); {hint}") from error


def _processes_of_ray() -> list[psutil.Process]:
    """Those that this process has started; a program that searches may have others."""
    found, package = [], str(Path(ray.__file__).parent)
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            command = " ".join(child.cmdline())
            if package in command or command.startswith("ray::"):
                found.append(child)
    return found


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=_GRACE_S)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _start(dashboard_port: int | None, dashboard: bool, job: JobConfig) -> Any:
    """A Ray whose ports are on the loopback interface, and whose files and token nobody else can read."""
    if dashboard_port is not None:
        check_port(dashboard_port)
    _keep_token_private()
    with ray_private.loopback_only():
        return ray.init(
            address="local",
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            dashboard_port=dashboard_port,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env=_runtime_env({"PYTHONPATH": _code_first()}, dashboard=dashboard),
            job_config=job,
            _temp_dir=str(_private_folder() / "ray"),
        )


def _private_folder() -> Path:
    """Where Ray keeps its sessions, which it lets everybody write: a folder that nobody else can enter."""
    folder = Path(ray_private.temporary_folder()) / f"reranker-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if status.st_uid == os.getuid() and folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o700)
            return folder
    except FileExistsError:
        pass
    return Path(tempfile.mkdtemp(prefix="reranker-", dir=folder.parent))


def _keep_token_private() -> None:
    """Make the token that Ray would make itself, for everybody to read, and close one that it made so."""
    if any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_uid == os.getuid():
            path.chmod(0o600)
        return
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))


class _Watch:
    """Looks whether Ray is still there, and interrupts what has not noticed by itself some seconds later.

    Attributes:
        lost: what has ended, as a sentence; empty while all is well.
    """

    def __init__(self, gcs: str, *, joined: bool) -> None:
        self._host, _, port = gcs.rpartition(":")
        self._port, self._joined = int(port), joined
        self._done = threading.Event()
        self.lost = ""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Raises in the main thread as soon as Ray is gone."""

        def interrupt(number: int, frame: FrameType | None) -> None:
            raise EndsAtOnce(self.lost)

        before = signal.signal(signal.SIGUSR2, interrupt)
        thread = threading.Thread(target=self._look, name="ray-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()
            signal.signal(signal.SIGUSR2, before)

    def _look(self) -> None:
        answered = time.monotonic()
        while not self._done.wait(2.0 if self._joined else _LOOK_S):
            if self._joined:
                answered = time.monotonic() if self._answers() else answered
                if time.monotonic() - answered > _PATIENCE_S:
                    self.lost = f"the Ray cluster at {self._host}:{self._port} does not answer any more"
            else:
                self.lost = cluster_fault()
            if self.lost:
                if self._done.wait(_GRACE_S) or not ray.is_initialized():
                    return
                os.kill(os.getpid(), signal.SIGUSR2)
                return

    def _answers(self) -> bool:
        try:
            socket.create_connection((self._host, self._port), timeout=2).close()
        except OSError:
            return False
        return True
