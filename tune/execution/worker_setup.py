"""What each of Ray's worker processes does first; named in the runtime environment of `tune.execution.ray_cluster`.

And of a job that a search is submitted as, for the process that starts its command.
"""

from __future__ import annotations

import os
import sys

from tune.execution import ray_private

RAYS_PYTHON = "RERANKER_TUNER_PYTHON"  # the variable for the Python that Ray runs on at this node
_REFUSED = "127.0.0.1:1"  # nothing listens there


def set_up() -> None:
    """Tell Ray's state API where this cluster's dashboard is, and a job's command which Python has Ray.

    Ray Train's helpers ask the API whether their controller lives. Left to itself, it looks for a cluster in
    `/tmp/ray`, finds one that is long gone or listens elsewhere, and each question takes 40 s; no slot could be closed
    in less than ten.

    A shell runs a job's command. The `python` that the shell finds need not have Ray: a head that was started as
    `.venv/bin/ray start` has not activated its environment.
    """
    os.environ[ray_private.API_SERVER] = f"http://{ray_private.own_dashboard() or _REFUSED}"
    os.environ[RAYS_PYTHON] = sys.executable


SET_UP = f"{__name__}.{set_up.__name__}"
