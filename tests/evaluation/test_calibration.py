"""Temperatures that are fitted, what they make of probabilities, and that no rank depends on them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_softmax

from reranker.calibration import COLDEST, HOTTEST, Calibration, calibration_error, fitted_temperature, log_loss
from reranker.evaluation.evaluate import evaluate


def drawn(lists: int, candidates: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities, and targets that come as often as these say."""
    rng = np.random.default_rng(seed)
    scores = log_softmax(rng.normal(0, 1.5, (lists, candidates)), axis=1)
    return scores, np.array([rng.choice(candidates, p=np.exp(row) / np.exp(row).sum()) for row in scores])


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_scores_that_are_too_large_by_a_factor_get_it_as_their_temperature(factor):
    scores, targets = drawn(5000)
    assert fitted_temperature(factor * scores, targets) == pytest.approx(factor, rel=0.05)


def test_no_other_temperature_makes_the_targets_more_likely():
    scores, targets = drawn(300, seed=1)
    best = fitted_temperature(2.5 * scores, targets)
    losses = [log_loss(2.5 * scores / t, targets) for t in np.geomspace(COLDEST, HOTTEST, 2000)]
    assert log_loss(2.5 * scores / best, targets) <= min(losses) + 1e-9


def test_a_ranker_that_is_always_right_or_worse_than_luck_gets_the_end_of_the_range():
    _, targets = drawn(100)
    right = np.eye(20)[targets]
    assert fitted_temperature(right, targets) == pytest.approx(COLDEST, rel=1e-3)
    assert fitted_temperature(-right, targets) == pytest.approx(HOTTEST, rel=1e-3)


def test_scores_that_tell_nothing_have_the_temperature_one():
    assert fitted_temperature(np.zeros((50, 20)), np.zeros(50, dtype=np.int64)) == 1.0
    assert fitted_temperature(np.zeros((0, 20)), np.zeros(0, dtype=np.int64)) == 1.0


def test_of_a_hundred_thousand_lists_a_part_is_enough():
    scores, targets = drawn(2500)
    many = np.tile(scores, (40, 1)), np.tile(targets, 40)
    assert fitted_temperature(*many) == pytest.approx(fitted_temperature(scores, targets), rel=0.1)


def test_the_error_is_the_mean_gap_over_bins_of_what_is_stated():
    stated = np.array([0.9, 0.9, 0.9, 0.5, 0.5])
    scores = np.log(np.stack([stated, (1 - stated) / 2, (1 - stated) / 2], axis=1))
    targets = np.array([0, 0, 1, 0, 2])
    expected = 3 / 5 * abs(2 / 3 - 0.9) + 2 / 5 * abs(1 / 2 - 0.5)
    assert calibration_error(scores, targets) == pytest.approx(expected)
    assert calibration_error(scores + 7, targets) == pytest.approx(expected), "scores are meant up to a constant"
    assert math.isnan(calibration_error(scores[:0], targets[:0]))


def test_what_is_right_has_a_small_error_and_what_is_too_sure_a_large_one_until_it_is_calibrated():
    scores, targets = drawn(600)
    assert calibration_error(scores, targets) < 0.06
    calibration = Calibration.of(4 * scores, targets)
    assert calibration.error > 0.3
    assert calibration.calibrated_error < 0.06
    assert calibration.calibrated_loss == pytest.approx(log_loss(scores, targets), abs=0.01)


def test_each_half_is_judged_by_the_temperature_of_the_other():
    scores, targets = drawn(41, seed=3)
    scores[::2] *= 5
    even, odd = (fitted_temperature(scores[start::2], targets[start::2]) for start in (0, 1))
    assert even > 2 * odd
    expected = (21 * log_loss(scores[::2] / odd, targets[::2]) + 20 * log_loss(scores[1::2] / even, targets[1::2])) / 41
    calibration = Calibration.of(scores, targets)
    assert calibration.calibrated_loss == pytest.approx(expected)
    assert calibration.temperature == fitted_temperature(scores, targets)


def test_a_report_has_the_temperature_of_what_is_added_up_and_the_ranks_of_before():
    scores, targets = drawn(400)
    counts = drawn(400, seed=9)[0]
    evaluation = evaluate(scores, targets, counts, 0.5)
    together = log_softmax(0.5 * scores + counts, axis=1)
    assert evaluation.figures["temperature"] == pytest.approx(fitted_temperature(together, targets), rel=1e-6)
    assert evaluation.adjustment.temperature == evaluation.figures["temperature"]
    given = evaluate(scores, targets, counts, 0.5, temperature=3.0)
    assert given.figures["temperature"] == 3.0
    assert given.figures["calibrated_loss"] == pytest.approx(log_loss(together / 3, targets))
    assert given.figures["val_loss"] == evaluation.figures["val_loss"]
    assert given.ranks.greater.tolist() == evaluation.ranks.greater.tolist()


def test_lists_without_their_target_do_not_count_and_broken_scores_have_no_temperature():
    scores, targets = drawn(60)
    some = np.where(np.arange(60) < 20, -1, targets)
    assert evaluate(scores, some).figures["temperature"] == fitted_temperature(scores[20:], targets[20:])
    assert "temperature" not in evaluate(scores, np.full(60, -1)).figures
    scores[3, 4] = np.nan
    broken = evaluate(scores, targets)
    assert "temperature" not in broken.figures
    assert broken.adjustment.temperature == 1.0
