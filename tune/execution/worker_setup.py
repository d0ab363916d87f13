"""What each of Ray's worker processes does first; named in the runtime environment of `tune.execution.ray_cluster`."""

from __future__ import annotations

import os

from tune.execution import ray_private

_REFUSED = "127.0.0.1:1"  # nothing listens there


def name_api_server() -> None:
    """Tell Ray's state API where this cluster's dashboard is, or that there is none.

    Ray Train's helpers ask it whether their controller lives. Left to itself, it looks for a cluster in `/tmp/ray`,
    finds one that is long gone or listens elsewhere, and each question takes 40 s; no slot could be closed in less than
    ten.
    """
    os.environ[ray_private.API_SERVER] = f"http://{ray_private.own_dashboard() or _REFUSED}"
