"""This program's packages → folders that Ray sends to the nodes of a cluster, so that all of them run the driver's code."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

SUBMITTED_TO = "RERANKER_TUNER_SUBMITTED_TO"  # of a search that is a job: the address of the dashboard that took it
_PACKAGES = ("reranker", "results", "tune")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "runs", "*.tmp")  # a checkout keeps its studies in results/runs


@contextmanager
def packages() -> Iterator[list[str]]:
    """For `py_modules` of Ray's runtime environment: a folder a package, with what belongs to it and nothing else."""
    with tempfile.TemporaryDirectory(prefix="reranker-code-") as place:
        for name in _PACKAGES:
            package = find_spec(name)  # which in a job is each in a place of its own
            assert package is not None
            assert package.origin is not None
            shutil.copytree(Path(package.origin).parent, Path(place) / name, ignore=_LEFT_OUT)
        yield [str(Path(place) / name) for name in _PACKAGES]
