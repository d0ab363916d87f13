"""The index of a journal's trials, against Optuna's own list of them."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from results.study.optuna_journal import ORIGIN
from tune.searching.trial_index import EXTRA, TrialIndex


@pytest.fixture(params=["maximize", "minimize"])
def study(tmp_path, request) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    return optuna.create_study(storage=storage, direction=request.param)


def as_optuna_has_it(study: optuna.Study) -> dict[str, object]:
    ended = [trial for trial in study.trials if trial.state.is_finished()]
    return {
        "all": study.trials,
        "running": study.get_trials(states=(TrialState.RUNNING,)),
        "waiting": study.get_trials(states=(TrialState.WAITING,)),
        "asked": sum(not trial.user_attrs.get(EXTRA) for trial in study.trials),
        "own ended": sum(trial.user_attrs.get(ORIGIN) != "warm start" for trial in ended),
    }


def as_the_index_has_it(index: TrialIndex) -> dict[str, object]:
    return {
        "all": list(index.all()),
        "running": index.unfinished(TrialState.RUNNING),
        "waiting": index.unfinished(TrialState.WAITING),
        "asked": index.asked(),
        "own ended": index.own_ended(),
    }


@pytest.mark.parametrize("waiting", [3, 60])
def test_it_agrees_with_optuna_s_list_after_each_step_of_any_trial(study, waiting):
    """With few unfinished trials, which are looked at one by one, and with many."""
    index, rng = TrialIndex(study), np.random.default_rng(0)
    running: list[optuna.Trial] = []
    for number in range(waiting):
        study.enqueue_trial({"x": number / 100}, user_attrs={EXTRA: number % 2 == 0, ORIGIN: "warm start"})
    for step in range(80):
        if not running or rng.random() < 0.5:
            running.append(study.ask())
            running[-1].suggest_float("x", 0, 1)
        elif rng.random() < 0.5:
            trial = running.pop(int(rng.integers(len(running))))
            state = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL][int(rng.integers(3))]
            study.tell(trial, rng.random() if state is TrialState.COMPLETE else None, state=state)
        else:
            running[0].report(rng.random(), step)
        if rng.random() < 0.5:
            assert as_the_index_has_it(index) == as_optuna_has_it(study)
    assert as_the_index_has_it(TrialIndex(study)) == as_optuna_has_it(study)  # one of a later launch


def test_the_best_are_those_that_tpe_takes_for_good_ones_and_the_latest_the_last_of_the_others_that_ended(study):
    """Optuna's TPE splits the same trials: first what is complete, by its value, then what got furthest."""
    from optuna.samplers._tpe.sampler import _split_trials

    index, rng = TrialIndex(study), np.random.default_rng(0)
    for number in range(40):
        trial = study.ask()
        for step in range(1 + number % 3):
            trial.report(math.nan if number == 5 else rng.random(), step)
        if number % 7 == 0:
            study.tell(trial, rng.random())
        else:
            study.tell(trial, state=TrialState.FAIL if number % 7 == 1 else TrialState.PRUNED)
    scored = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    good, others = _split_trials(study, scored, 10)
    expected = [trial.number for trial in good] + [trial.number for trial in others[-12:]]
    running = study.ask().number  # TPE keeps its distance from these
    assert [trial.number for trial in index.best_and_latest(10, 12) or []] == [*sorted(expected), running]
    assert index.best_and_latest(10, len(scored) - 10) is None
