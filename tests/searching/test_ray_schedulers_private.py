"""What the schedulers need of Ray's behind its public interface; a failure names what an upgrade of Ray has changed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import ray
from ray.tune.schedulers import TrialScheduler

from tune.searching.ray_schedulers_private import OpenAsha, OpenMedianRule
from tune.searching.trial_store import PastTrial

CHANGED = f"Ray {ray.__version__} has changed what tune/searching/ray_schedulers_private.py reaches: "


def asha(**options) -> OpenAsha:
    return OpenAsha(time_attr="epoch", metric="score", mode="max", max_t=100, reduction_factor=3, **options)


def hear(scheduler: TrialScheduler, number: int, score: float, epoch: int = 1) -> str:
    trial = PastTrial(f"t{number}", {})
    scheduler.on_trial_add(None, trial)
    return scheduler.on_trial_result(None, trial, {"epoch": epoch, "score": score})


def test_asha_s_cutoff_is_that_of_the_others_at_the_rung():
    scheduler = asha(grace_period=1)
    for number, score in enumerate((0.1, 0.2, 0.3, 0.4)):
        hear(scheduler, number, score)
    expected = np.percentile([0.2, 0.3, 0.4], (1 - 1 / 3) * 100)
    assert math.isclose(scheduler.cutoff("t0"), expected), CHANGED + "the rungs of a bracket, or its cutoff"
    assert scheduler.reduction("t0") == 3, CHANGED + "a bracket's `rf`"


def test_asha_counts_its_stops_where_one_can_be_taken_back():
    scheduler = asha(grace_period=1)
    said = [hear(scheduler, number, score) for number, score in enumerate((0.8, 0.9, 0.1))]
    assert said[-1] == TrialScheduler.STOP
    assert scheduler._num_stopped == 1, CHANGED + "the count of stopped trials"
    assert scheduler.take_back_a_stop() == TrialScheduler.CONTINUE
    assert scheduler._num_stopped == 0


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_asha_tells_its_metric_and_its_clock(mode, sign):
    scheduler = OpenAsha(time_attr="progress", metric="val_loss", mode=mode, max_t=100)
    assert (scheduler.metric, scheduler.sign, scheduler.time_attribute) == ("val_loss", sign, "progress"), (
        CHANGED + "the names of its settings"
    )


def test_asha_draws_a_trial_s_bracket_with_numpy_s_global_state():
    def brackets(seed: int) -> list[int]:
        scheduler = asha(grace_period=1, brackets=3)
        for number in range(20):
            with scheduler.drawing(seed, number):
                scheduler.on_trial_add(None, PastTrial(f"t{number}", {}))
        return [scheduler._brackets.index(scheduler._trial_info[f"t{number}"]) for number in range(20)]

    assert brackets(0) == brackets(0), CHANGED + "how a bracket is drawn"
    assert brackets(0) != brackets(1), CHANGED + "how a bracket is drawn"


def test_the_median_rule_s_memory_is_read_and_set():
    rule = OpenMedianRule(time_attr="epoch", metric="score", mode="max", grace_period=1, min_time_slice=math.inf)
    trial = PastTrial("t0", {})
    rule.on_trial_add(None, trial)
    rule.remember(trial, [{"epoch": 1, "score": 0.5}])
    rule.on_trial_result(None, trial, {"epoch": 2, "score": 0.6})
    assert [known["epoch"] for known in rule.results(trial)] == [1, 2], CHANGED + "the results of a trial"


def test_a_stop_of_the_median_rule_can_be_taken_back():
    rule = OpenMedianRule(time_attr="epoch", metric="score", mode="max", grace_period=1, min_time_slice=math.inf)
    for number in range(3):
        rule.remember(PastTrial(f"t{number}", {}), [{"epoch": epoch, "score": 0.5} for epoch in (1, 2)])
    trial = PastTrial("t3", {})
    rule.on_trial_add(None, trial)
    assert rule.on_trial_result(None, trial, {"epoch": 1, "score": 0.1}) == TrialScheduler.STOP
    assert rule.take_back_a_stop(trial) == TrialScheduler.CONTINUE
    assert rule.on_trial_result(None, trial, {"epoch": 2, "score": 0.9}) == TrialScheduler.CONTINUE, CHANGED + "stops"
