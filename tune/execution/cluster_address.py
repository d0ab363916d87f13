"""The address of a Ray cluster → one that answers and lets us in, or what is missing, within seconds.

Ray itself tries for minutes, and asks for a token only where `RAY_AUTH_MODE` says so, whatever the cluster does. So the
cluster is asked first, with a call of its own protocol, and the mode is set to what it has.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from reranker.errors import EnvironmentFault
from tune.execution import ray_private

_ANSWER_S = 4.0
_NODE_S = 15.0  # that a head's own node may take to join it, on a machine that is busy
_HEAD = "its head is started with: ray start --head"


def find_cluster(address: str) -> str:
    """HOST:PORT of a cluster that `ray.init` can join, with this process set to its way of authentication.

    Args:
        address: HOST:PORT, or "auto".

    Raises:
        EnvironmentFault: no cluster answers there, it wants another token, or none of its nodes is on this machine.
    """
    host, port = _place(address)
    where = f"at {host}:{port}"
    try:
        socket.create_connection((host, port), timeout=_ANSWER_S).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise EnvironmentFault(f"no Ray cluster answers {where}: {why.lower()}; {_HEAD}") from None
    token = ray_private.token()
    if _answers(host, port, None):
        _authenticate(with_token=False)
    elif token is None:
        raise EnvironmentFault(
            f"the Ray cluster {where} asks for a token, and there is none here: put what `ray get-auth-token` prints on "
            "its head into the variable RAY_AUTH_TOKEN"
        )
    elif _answers(host, port, token):
        _authenticate(with_token=True)
    else:
        raise EnvironmentFault(
            f"the Ray cluster {where} does not take the token that is here: put what `ray get-auth-token` prints on its "
            "head into the variable RAY_AUTH_TOKEN"
        )
    _check_node_here(host, port, token, where)
    return f"{host}:{port}"


def _place(address: str) -> tuple[str, int]:
    if address == "auto":
        try:
            address = ray_private.running_address()
        except ConnectionError:
            raise EnvironmentFault(f"no Ray cluster runs on this machine; {_HEAD}") from None
    if "://" in address:
        raise EnvironmentFault(f"the address of a cluster is HOST:PORT of its head, or auto, not {address!r}")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise EnvironmentFault(f"the address of a cluster is HOST:PORT of its head, or auto, not {address!r}")
    return host.strip("[]"), int(port)


def _authenticate(*, with_token: bool) -> None:
    """Set the mode for this process, where Ray has read it already, and for those that it starts."""
    os.environ["RAY_AUTH_MODE"] = "token" if with_token else "disabled"
    ray_private.read_settings_again()


def _answers(host: str, port: int, token: str | None) -> bool:
    """False where it wants another token.

    Raises:
        EnvironmentFault: what is there is no Ray cluster.
    """
    import grpc

    try:
        with _channel(host, port, token) as (channel, metadata):
            ray_private.is_alive(channel, metadata, _ANSWER_S)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return False
        raise EnvironmentFault(
            f"what answers at {host}:{port} is no Ray cluster ({error.code().name.lower()}); a head's port is 6379 unless "
            "another is given"
        ) from None
    return True


def _check_node_here(host: str, port: int, token: str | None, where: str) -> None:
    """A search needs a node of the cluster on its own machine."""
    own = {each.address for addresses in psutil.net_if_addrs().values() for each in addresses}
    deadline = time.monotonic() + _NODE_S
    while time.monotonic() < deadline:
        with _channel(host, port, token) as (channel, metadata):
            if own & ray_private.node_addresses(channel, metadata, _ANSWER_S):
                return
        time.sleep(0.2)
    raise EnvironmentFault(
        f"no node of the Ray cluster {where} runs on this machine; start one with: ray start --address={host}:{port}"
    )


@contextmanager
def _channel(host: str, port: int, token: str | None) -> Iterator[tuple[Any, Any]]:
    import grpc

    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield channel, [("authorization", f"Bearer {token}")] if token else None
