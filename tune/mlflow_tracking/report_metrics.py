"""Figures → MLflow's metrics. What the figures are: `tune.mirroring.tracked_figures`."""

from __future__ import annotations

import time
from collections.abc import Mapping

from mlflow.entities import Metric


def metrics(figures: Mapping[str, float], prefix: str = "", step: int = 0) -> list[Metric]:
    """As MLflow takes them."""
    now = now_ms()
    return [Metric(f"{prefix}{name}", float(value), now, step) for name, value in figures.items()]


def now_ms() -> int:
    """As MLflow counts time."""
    return int(time.time() * 1000)
