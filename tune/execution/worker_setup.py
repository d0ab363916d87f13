"""What each of Ray's worker processes does first; named in the runtime environment of `tune.execution.ray_cluster`. Light."""

from __future__ import annotations

import os

_REFUSED = "http://127.0.0.1:1"  # nothing listens there


def name_api_server() -> None:
    """Tell Ray's state API where this cluster's dashboard is, or that there is none.

    Ray Train's helpers ask it whether their controller lives. Left to itself, it looks for a cluster in `/tmp/ray`, finds
    one that is long gone or listens elsewhere, and each question takes 40 s; no slot could be closed in less than ten.
    """
    from ray import _private as ray_private
    from ray._private import ray_constants

    gcs = ray_private.worker.global_worker.gcs_client
    address = gcs.internal_kv_get(
        ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD, timeout=5
    )
    url = f"http://{address.decode()}" if address else _REFUSED
    os.environ[ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE] = url
