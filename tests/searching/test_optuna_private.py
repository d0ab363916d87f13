"""What the search needs of Optuna behind its public interface; a failure names what an upgrade of Optuna has changed."""

from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from tune.searching.optuna_private import SomeTrials, enqueued_parameters, go_on_with, is_enqueued, trial_of

CHANGED = f"Optuna {optuna.__version__} has changed what tune/searching/optuna_private.py reaches: "


@pytest.fixture
def study(tmp_path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    return optuna.create_study(storage=storage)


def test_an_enqueued_trial_is_told_from_a_drawn_one(study):
    study.enqueue_trial({"x": 1})
    study.ask()
    study.ask()
    assert [is_enqueued(trial) for trial in study.trials] == [True, False], CHANGED + "the mark of an enqueued trial"


def test_what_was_given_of_an_enqueued_trial_is_told_from_what_was_drawn(study):
    study.enqueue_trial({"x": 1})
    for _ in range(2):
        trial = study.ask()
        trial.suggest_int("x", 0, 9)
        trial.suggest_int("y", 0, 9)
    given = [enqueued_parameters(trial) for trial in study.trials]
    assert given == [{"x": 1}, {}], CHANGED + "how an enqueued trial keeps its parameters"


def test_the_second_of_two_waiting_trials_can_be_run_first(study):
    for value in (1, 2):
        study.enqueue_trial({"x": value})
    running = go_on_with(study, study.trials[1])
    assert running.suggest_int("x", 0, 9) == 2, CHANGED + "how an enqueued trial keeps its parameters"
    study.tell(running, 0.5)
    assert [trial.state for trial in study.trials] == [TrialState.WAITING, TrialState.COMPLETE], (
        CHANGED + "how a waiting trial begins"
    )


def test_a_running_trial_goes_on_with_what_it_has_drawn_and_reported(study):
    begun = study.ask()
    drawn = begun.suggest_float("x", 0, 1)
    begun.report(0.25, 1)
    again = go_on_with(study, study.trials[0])
    assert again.suggest_float("x", 0, 1) == drawn, CHANGED + "how a trial is made of its id"
    again.report(0.5, 2)
    assert study.trials[0].intermediate_values == {1: 0.25, 2: 0.5}, CHANGED + "how a trial is made of its id"


def test_a_trial_is_found_by_its_number(study):
    study.enqueue_trial({"x": 1})
    study.ask().report(0.5, 3)
    assert trial_of(study, 0) == study.trials[0], CHANGED + "how a trial is found by its number"
    with pytest.raises(KeyError):
        trial_of(study, 1)


def test_tpe_that_knows_some_trials_draws_as_if_there_were_no_others(study):
    """Of the same study, and of one that has these alone."""
    rng = np.random.default_rng(0)
    space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(1e-5, 1e-1, log=True)}
    for _ in range(60):
        params = {"x": rng.random(), "y": float(10 ** rng.uniform(-5, -1))}
        study.add_trial(create_trial(params=params, distributions=space, value=rng.random()))
    some = [trial for trial in study.trials if trial.number % 3]
    alone = optuna.create_study()
    alone.add_trials(some)
    drawn = []
    for own, known in ((study, SomeTrials(study, some)), (alone, alone), (study, study)):
        sampler = TPESampler(seed=0, multivariate=True, group=True, n_startup_trials=5)
        own.ask()
        trial = own.trials[-1]
        drawn.append(sampler.sample_relative(known, trial, sampler.infer_relative_search_space(known, trial)))
    assert drawn[0] == drawn[1] != drawn[2], CHANGED + "how a sampler learns of a study's trials"
