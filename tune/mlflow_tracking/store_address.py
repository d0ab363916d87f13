"""The address of a store of MLflow's → how its pages are opened. Light: no MLflow."""

from __future__ import annotations

import shlex
import sys

from reranker.command_line.redaction import masked

_PORT = 5000
# MLflow starts four servers and a runner of jobs with seven processes of its own, which these pages don't need: 1.8 GiB and
# 33 s of CPU time, against .5 and 9 s
_LIGHT, _ONE_SERVER = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "--workers 1"


def ui_command(uri: str) -> str:
    """What to type to see the runs of this store; of a server its address."""
    if _is_server(uri):
        return masked(uri)
    pages = f"-m mlflow ui {_ONE_SERVER} --backend-store-uri {shlex.quote(masked(uri))} --port {_PORT}"
    return f"{_LIGHT} {shlex.quote(sys.executable)} {pages}"


def ui_address(uri: str) -> str:
    """Where its pages are, once its server runs."""
    return masked(uri).rstrip("/") if _is_server(uri) else f"http://127.0.0.1:{_PORT}"


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))
