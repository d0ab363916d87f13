"""What a search is asked besides its study: the options of the command line, for Python too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from results.study.runs_home import runs_home


@dataclass(frozen=True)
class SearchOptions:
    """
    Attributes:
        runs: where studies are kept.
        tracking_uri: of an MLflow server; empty: a file beside the studies.
        address: of a running Ray cluster, or "auto"; None: a Ray of the search's own.
        dashboard_port: None: 8265, or the next one that is free.
        dashboard: whether Ray is started with its dashboard.
        replicate: with how many other seeds the best are trained again; 0: not.
        top: how many of the best are replicated.
        refit: whether the winner is then trained on the validation items too, and registered.
        retry_failed: whether a search that goes on tries failed trials again.
        quiet: whether only the result is printed.
        summary_minutes: between summaries without a terminal.
        webhook: an address that gets the verdict as JSON at the end; empty: none.
        wait_for_gpus: how many GPUs the cluster must have before the search begins.
        command: the words that asked for this search, as they are stored.
    """

    runs: Path = field(default_factory=runs_home)
    tracking_uri: str = ""
    address: str | None = None
    dashboard_port: int | None = None
    dashboard: bool = True
    replicate: int = 0
    top: int = 5
    refit: bool = False
    retry_failed: bool = False
    quiet: bool = False
    summary_minutes: float = 10.0
    webhook: str = ""
    command: Sequence[str] = ()
    wait_for_gpus: int = 0
