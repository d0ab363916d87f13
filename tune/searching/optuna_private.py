"""All that is reached of Optuna behind its public interface. `tests/searching/test_optuna_private.py` says what an
upgrade breaks."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState


class SomeTrials:
    """A study as a sampler sees it that shall know some of its trials only."""

    def __init__(self, study: optuna.Study, trials: Sequence[Any]) -> None:
        self._study, self._trials = study, trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[Any]:
        return [trial for trial in self._trials if states is None or trial.state in states]


def is_enqueued(trial: Any) -> bool:
    """Whether the trial's parameters were enqueued, not drawn."""
    return "fixed_params" in trial.system_attrs


def enqueued_parameters(trial: Any) -> dict[str, Any]:
    """Those that were given when it was enqueued; empty for one that was drawn."""
    given: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return given


def go_on_with(study: optuna.Study, trial: Any) -> optuna.Trial:
    """A trial of the study that runs already, or that waits to; `ask` only gives the next one, which may be another.

    Args:
        trial: frozen, RUNNING or WAITING; it is RUNNING afterwards.
    """
    if trial.state is TrialState.WAITING:
        study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
    return optuna.Trial(study, trial._trial_id)


def trial_of(study: optuna.Study, number: int) -> Any:
    """A trial by its number. `study.trials` makes a list of all, which takes milliseconds once there are thousands.

    Raises:
        KeyError: there is none.
    """
    storage = study._storage
    return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study._study_id, number))
