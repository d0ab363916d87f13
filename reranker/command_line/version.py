"""The version of this program."""

from __future__ import annotations

import importlib.metadata


def version() -> str:
    """The version of the installed package; "not installed" where the checkout merely lies on Python's path."""
    try:
        return importlib.metadata.version("reranker-tuner")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
