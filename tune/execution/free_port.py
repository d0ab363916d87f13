"""Whether a port of this machine is free. Light: no Ray."""

from __future__ import annotations

import socket

from reranker.errors import EnvironmentFault


def check_port(port: int) -> None:
    """
    Raises:
        EnvironmentFault: it is taken.
    """
    if is_taken(port):
        raise EnvironmentFault(
            f"port {port} on 127.0.0.1 is in use; name a free one with --dashboard-port, or leave it out"
        )


def is_taken(port: int) -> bool:
    """Whether something listens on it at 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
