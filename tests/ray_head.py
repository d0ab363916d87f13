"""A real `ray start --head`, of which only what was started here is ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import psutil

TOKEN = "ab" * 32


class Head:
    """Started by the constructor, and there after `wait`.

    Args:
        token: that it asks for; empty: none.
        dashboard: whether it has one, and takes jobs.
    """

    def __init__(self, token: str = "", *, dashboard: bool = False, cpus: int = 1) -> None:
        self.port, self.dashboard_port, agent = free_ports(3)
        options = [f"--port={self.port}", f"--num-cpus={cpus}", "--disable-usage-stats"]
        options += ["--min-worker-port=20002", "--max-worker-port=29999"]
        options += [f"--dashboard-port={self.dashboard_port}", f"--dashboard-agent-listen-port={agent}"]
        options += [f"--include-dashboard={str(dashboard).lower()}"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={
                **os.environ, "RAY_AUTH_MODE": "token" if token else "disabled", "RAY_AUTH_TOKEN": token,
                "PATH": os.defpath,  # as where the environment was not activated
            },
        )  # fmt: skip

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def wait(self, port: int | None = None) -> Head:
        """Until something listens on this port; left out, the head's own."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port or self.port), timeout=1).close()
                return self
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the head did not start")

    def end(self) -> None:
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.terminate()
        for child in children:
            child.terminate()
        _, alive = psutil.wait_procs(children, timeout=15)
        for child in alive:
            child.kill()
        self._process.kill()  # what `--block` waits for is gone
        self._process.wait(15)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
