"""Where fetched and converted files are kept between runs."""

from __future__ import annotations

from pathlib import Path

from reranker.storage.user_paths import path_in


def cache_folder() -> Path:
    """`$RERANKER_CACHE`, or `reranker-tuner` under the user's cache folder (XDG)."""
    configured = path_in("RERANKER_CACHE")
    return configured or (path_in("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "reranker-tuner"
