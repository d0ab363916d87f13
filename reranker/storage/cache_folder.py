"""Where fetched and converted files are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$RERANKER_CACHE`, or `reranker-tuner` under the user's cache folder (XDG)."""
    if configured := os.environ.get("RERANKER_CACHE"):
        return Path(configured).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "reranker-tuner"
