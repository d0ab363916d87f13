"""NVIDIA's Multi-Process Service for the time of a search: trials that share a GPU compute side by side, not in turns.

Source: docs.nvidia.com/deploy/mps. Without it, processes take turns on a GPU; with it, kernels of several run at the same
time. Memory is divided either way (`resources.gpus_per_trial`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reranker.errors import EnvironmentFault
from tune.study_file.worker_device import MPS_DAEMON

_PIPES, _LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
_START_S, _END_S = 10.0, 20.0


@contextmanager
def cuda_mps() -> Iterator[None]:
    """A daemon of this search's own, which processes that are started in this context find; one that runs is used as it is.

    Raises:
        EnvironmentFault: it can't be started.
    """
    if _PIPES in os.environ:
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="reranker-mps-"))  # for this user alone
    variables = {_PIPES: str(folder), _LOGS: str(folder)}
    environment = os.environ | variables
    with (folder / "output").open("wb") as output:
        daemon = subprocess.Popen(
            [MPS_DAEMON, "-f"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait_for(daemon, environment, folder)
        os.environ.update(variables)
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        _end(daemon, environment)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(daemon: subprocess.Popen[bytes], environment: dict[str, str], folder: Path) -> None:
    until = time.monotonic() + _START_S
    while daemon.poll() is None and time.monotonic() < until:
        if _told("get_server_list", environment):
            return
        time.sleep(0.1)
    said = (folder / "output").read_text(encoding="utf-8", errors="replace").strip() or "it said nothing"
    raise EnvironmentFault(f"resources.cuda_mps: {MPS_DAEMON} could not be started: {said.splitlines()[0]}")


def _told(command: str, environment: dict[str, str]) -> bool:
    """Whether the daemon has taken a command."""
    try:
        asked = subprocess.run(
            [MPS_DAEMON],
            input=f"{command}\n".encode(),
            env=environment,
            capture_output=True,
            timeout=_START_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0


def _end(daemon: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
    """Have it end when its clients have, and make sure that it does."""
    if daemon.poll() is None:
        _told(f"quit -t {_END_S / 2:.0f}", environment)
    try:
        daemon.wait(_END_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
