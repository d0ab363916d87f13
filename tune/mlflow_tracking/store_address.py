"""The address of a store of MLflow's → how its pages are opened. Light: no MLflow."""

from __future__ import annotations

import shlex
import sys

from reranker.command_line.redaction import masked

_PORT = 5000


def ui_command(uri: str) -> str:
    """What to type to see the runs of this store; of a server its address."""
    if _is_server(uri):
        return masked(uri)
    return f"{shlex.quote(sys.executable)} -m mlflow ui --backend-store-uri {shlex.quote(masked(uri))} --port {_PORT}"


def ui_address(uri: str) -> str:
    """Where its pages are, once its server runs."""
    return masked(uri).rstrip("/") if _is_server(uri) else f"http://127.0.0.1:{_PORT}"


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))
