"""All that is reached of Optuna behind its public interface. `tests/searching/test_optuna_private.py` says what an
upgrade breaks."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import TrialState


def is_enqueued(trial: Any) -> bool:
    """Whether the trial's parameters were enqueued, not drawn."""
    return "fixed_params" in trial.system_attrs


def go_on_with(study: optuna.Study, trial: Any) -> optuna.Trial:
    """A trial of the study that runs already, or that waits to; `ask` only gives the next one, which may be another.

    Args:
        trial: frozen, RUNNING or WAITING; it is RUNNING afterwards.
    """
    if trial.state is TrialState.WAITING:
        study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
    return optuna.Trial(study, trial._trial_id)
