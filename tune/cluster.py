"""Command-line wishes → a running Ray, our own on this machine or one that is joined, and its dashboard's address."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

# Read when Ray is imported or its processes start.
_QUIET = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # how soon a worker's death is noticed
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else bytecode dumps flood the log
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a worker that is gone is noticed anyway; one process less a slot
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # Train runs appear in the dashboard
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables, which `verbose` does not silence altogether
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # told in one sentence: tune/faults.py
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: tune/conductor.py
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial may fail before its first report
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own snapshots are not what a study is resumed from
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)

import ray

from reranker.errors import EnvironmentFault

DASHBOARD_PORT = 8265


@dataclass(frozen=True)
class Cluster:
    """`dashboard` is a URL, empty where there is none; `logs` is where Ray's processes write."""

    dashboard: str
    logs: str
    joined: bool


@contextmanager
def cluster(address: str | None, dashboard_port: int | None, dashboard: bool = True) -> Iterator[Cluster]:
    """Ray for the time of the search; one that was started here is shut down at the end.

    Args:
        address: of a running cluster, or "auto"; None starts a Ray of this machine's own.
        dashboard: whether that one has a dashboard.
        dashboard_port: on 127.0.0.1; None takes 8265 or the next free one.

    Raises:
        EnvironmentFault: the port is taken, or no cluster answers.
    """
    if address is None and dashboard_port is not None and _is_taken(dashboard_port):
        raise EnvironmentFault(
            f"port {dashboard_port} on 127.0.0.1 is in use; name a free one with --dashboard-port, or leave it out"
        )
    runtime_env = {"env_vars": _QUIET}
    try:
        if address is None:
            with _terminal_of_its_own():
                context = ray.init(
                    address="local",
                    include_dashboard=dashboard,
                    dashboard_host="127.0.0.1",
                    dashboard_port=dashboard_port,
                    log_to_driver=False,
                    logging_level="ERROR",
                    runtime_env=runtime_env,
                )
        else:
            context = ray.init(address=address, log_to_driver=False, logging_level="ERROR", runtime_env=runtime_env)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = "on this machine" if address is None else f"at {address}"
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EnvironmentFault(f"no Ray cluster could be had {where}: {first}") from error
    except KeyboardInterrupt:
        ray.shutdown()
        raise
    url = context.dashboard_url
    logs = os.path.join(context.address_info["session_dir"], "logs")
    try:
        yield Cluster(f"http://{url}" if url else "", logs, joined=address is not None)
    finally:
        ray.shutdown()


@contextmanager
def _terminal_of_its_own() -> Iterator[None]:
    """What is started meanwhile outlives a closed terminal, as it does Ctrl-C: it is for us to end it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


@contextmanager
def libraries_quiet(log: Path) -> Iterator[None]:
    """Send what libraries print in this process to a file; our own console keeps the terminal."""
    with log.open("a", encoding="utf-8", buffering=1) as stream, redirect_stdout(stream), redirect_stderr(stream):
        yield


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
