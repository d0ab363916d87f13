"""What depends on whether this is a checkout or an installed package: where studies are kept, how a search is begun. Light."""

from __future__ import annotations

import sys
from pathlib import Path

from reranker.storage.user_paths import path_in

HOME = "RERANKER_TUNER_HOME"
_PROJECT = Path(__file__).resolve().parents[2]


def runs_home() -> Path:
    """`$RERANKER_TUNER_HOME/runs`; else `results/runs` of the checkout; of an installed package `runs` where one is."""
    if home := path_in(HOME):
        return home.absolute() / "runs"
    return _PROJECT / "results" / "runs" if _is_checkout() else Path.cwd() / "runs"


def search_command() -> str:
    """The words that begin a search or go on with one: those of a checkout, unless the command was called by its name."""
    by_name = sys.argv[0].startswith("reranker-tuner ")
    return "python tune/run_search.py" if _is_checkout() and not by_name else "reranker-tuner search"


def _is_checkout() -> bool:
    return (_PROJECT / "pyproject.toml").is_file()
