"""What Tune carries between search and slots: an assignment survives it, and a last result says how a trial ended."""

from __future__ import annotations

import pickle

import pytest

from reranker.config import TrialConfig
from results.study.stored_trial import TrialStatus
from tune.execution.trial_messages import Assignment, Ending, report_result


def test_an_assignment_is_the_same_in_another_process():
    sent = Assignment(3, TrialConfig(model="demo-tiny", learning_rate=1e-3), True, ((1, 0.25), (2, 0.5)))
    assert Assignment.of(pickle.loads(pickle.dumps(sent.as_tune_config))) == sent


@pytest.mark.parametrize(
    "ending",
    [
        Ending(TrialStatus.FAILED, "diverged in epoch 1", ours=True),
        Ending(TrialStatus.CANCELLED, "the disk is full", machine="the disk is full"),
        Ending(TrialStatus.PRUNED, "stopped by hand"),
    ],
)
def test_a_last_result_says_how_the_trial_ended(ending):
    assert ending.as_result["done"]
    assert Ending.of({"epoch": 2, **ending.as_result}) == ending


def test_a_result_that_says_nothing_of_an_end_is_of_a_trial_that_the_scheduler_stopped():
    assert Ending.of(report_result({"epoch": 1, "ndcg_at_10": 0.5}, 2, replayed=False)) == Ending(TrialStatus.PRUNED)


def test_the_last_epoch_ends_the_trial():
    assert Ending.of(report_result({"epoch": 2, "ndcg_at_10": 0.5}, 2, replayed=True)) == Ending(TrialStatus.COMPLETED)
