"""Where studies are kept unless a command is told otherwise. Light."""

from __future__ import annotations

import os
from pathlib import Path

HOME = "RERANKER_TUNER_HOME"
_PROJECT = Path(__file__).resolve().parents[2]


def runs_home() -> Path:
    """`$RERANKER_TUNER_HOME/runs`; else `results/runs` of the checkout; of an installed package `runs` where one is."""
    if home := os.environ.get(HOME):
        return Path(home).expanduser().absolute() / "runs"
    if (_PROJECT / "pyproject.toml").is_file():
        return _PROJECT / "results" / "runs"
    return Path.cwd() / "runs"
