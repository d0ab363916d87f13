"""A service → an application that runs on Ray Serve for the time of a `with` block."""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from reranker.errors import EnvironmentFault, first_line
from tune.execution.ray_cluster import cluster  # before Ray: it sets how Ray starts
from tune.serving.deployment import Service, application

from ray import serve  # isort: skip
from ray.serve.config import HTTPOptions, ProxyLocation  # isort: skip
from ray.serve.schema import LoggingConfig  # isort: skip

_NAME = "reranker"  # of the application
_RAISED = re.compile(r"^\S*(?:Error|Fault|Exception): (.+)$", re.MULTILINE)  # the last line of a stack trace


@contextmanager
def running(service: Service, host: str, port: int, address: str | None) -> Iterator[str]:
    """Serve until the block ends, and give the address of Ray's dashboard.

    Args:
        host: the interface to listen on.
        address: of a running Ray cluster, or "auto"; None starts a Ray of this machine's own.

    Raises:
        EnvironmentFault: Ray does not start, or the model does not load; what a replica said of it.
        RayLost: Ray ended meanwhile.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # the terminal is for what this program says
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    with cluster(address, None, job_name=f"serve {service.name}") as ray_cluster:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has set one that ends with a stack trace
        serve.start(ProxyLocation.HeadOnly, HTTPOptions(host=host, port=port), logging_config=quiet)
        try:
            try:
                serve.run(application(service), name=_NAME, route_prefix="/", logging_config=quiet)
            except RuntimeError as error:
                raise EnvironmentFault(f"the model cannot be served: {_cause(str(error))}") from error
            yield ray_cluster.dashboard
        finally:
            if address is None:
                serve.shutdown()
            else:
                serve.delete(_NAME)


def _cause(trace: str) -> str:
    """What a replica raised, of the text that Serve makes of it."""
    raised = _RAISED.findall(trace)
    return raised[-1] if raised else first_line(RuntimeError(trace))
