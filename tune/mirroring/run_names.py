"""A trial → the name of its run in any tracker, and values as trackers show them."""

from __future__ import annotations

import json
from typing import Any

from results.statistics.seed_averages import replicated
from results.study.stored_trial import StoredTrial

_SHORT = {"learning_rate": "lr", "lora_rank": "r", "lora_alpha": "alpha"}


def run_name(trial: StoredTrial, knobs: list[str], *, won: bool = False) -> str:
    """`003 demo-tiny lr 1.2e-02 r 8 epochs 3`: what tells the runs of a list apart. The winner has a star."""
    parts = [f"{trial.number:03d}", *(["★"] if won else []), trial.values["model"]]
    parts += [f"{_SHORT.get(knob, knob)} {brief(trial.values[knob])}" for knob in knobs if knob != "model"]
    if (original := replicated(trial)) is not None:
        parts.append(f"seed {trial.values['seed']}, repeats {original:03d}")
    return " ".join(parts)


def configuration_of(trial: StoredTrial) -> int:
    """The number of the trial that this one repeats with another seed; else its own. It groups the seeds."""
    original = replicated(trial)
    return trial.number if original is None else original


def text(value: Any) -> str:
    """A parameter's value as trackers keep it."""
    return value if isinstance(value, str) else json.dumps(value)


def brief(value: Any) -> str:
    """A knob's value in a name."""
    if isinstance(value, float):
        return f"{value:.1e}" if not value.is_integer() and abs(value) < 0.01 else f"{value:g}"
    return text(value)
