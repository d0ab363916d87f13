"""A trial's configuration → what its training loss, and its validation loss, can be held against.

The validation loss is always the softmax over a list's candidates, in nats; that of guessing is ln(candidates). The training
loss is of that kind only with `objective: label_ce`, without a teacher, without titles asked in between, with one right item a list and as many candidates in each epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from results.study.stored_trial import StoredTrial


def other_loss(trial: StoredTrial) -> bool:
    """Whether the training loss is another than that of the softmax over the list's candidates, or not that alone.

    It can be compared with itself then, and neither with the validation loss nor with the loss of guessing.
    """
    values = trial.values
    return (
        values.get("objective", "label_ce") != "label_ce"
        or values.get("teacher", "none") != "none"
        or bool(values.get("skill_mix"))
        or bool(values.get("first_candidates"))
        or values.get("positives", 1) > 1
        or bool(values.get("dpo_epochs"))
    )


def guessing_in_training(figures: Mapping[str, Any], guessing: float) -> float:
    """What the training loss of a report is held against: that of a model to which all candidates of its lists are alike.

    Args:
        guessing: the same of validation lists, for reports that do not tell.
    """
    return float(figures.get("guessing_loss", guessing))


def is_no_likelihood(trial: StoredTrial) -> bool:
    """Whether what is trained is no likelihood: a ranking may get better while the validation loss rises."""
    return trial.values.get("objective") == "lambdaloss"


def what_is_trained(trial: StoredTrial) -> str:
    """What makes the training loss another one, as a phrase for after its name; empty if nothing does."""
    values, parts = trial.values, []
    if (objective := values.get("objective", "label_ce")) != "label_ce":
        parts.append(f"objective: {objective}")
    if (teacher := values.get("teacher", "none")) != "none":
        parts.append(f"teacher: {teacher}")
    if mix := values.get("skill_mix"):
        parts.append(f"skill_mix: {mix:g}")
    if first := values.get("first_candidates"):
        parts.append(f"first_candidates: {first}")
    if (right := values.get("positives", 1)) > 1:
        parts.append(f"positives: {right}")
    if last := values.get("dpo_epochs"):
        parts.append(f"dpo_epochs: {last}")
    return f" ({', '.join(parts)})" if parts else ""
