"""What is reported of scored lists, those among them that lack their target included."""

from __future__ import annotations

import numpy as np
import pytest

from reranker.data.example import MISSING
from reranker.evaluation.evaluate import evaluate
from reranker.metrics import METRIC_NAMES

SCORES = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]))


def test_the_loss_is_the_mean_of_the_true_label_s_and_metrics_are_of_all_lists():
    found = evaluate(SCORES, np.array([0, 1, 2]))
    assert found.figures["val_loss"] == pytest.approx(-np.log([0.5, 0.2, 0.1]).mean())
    assert found.figures["recall_at_1"] == pytest.approx(1 / 3)
    calibration = {"temperature", "calibration_error", "calibrated_error", "calibrated_loss"}
    assert set(found.figures) == {"val_loss", *METRIC_NAMES, *calibration}


def test_lists_without_their_target_count_as_misses_and_the_others_are_reported_beside():
    found = evaluate(SCORES, np.array([0, MISSING, 2]))
    assert found.figures["hit"] == pytest.approx(2 / 3)
    assert found.figures["recall_at_1"] == pytest.approx(1 / 3)
    assert found.figures["retrieved/recall_at_1"] == pytest.approx(1 / 2)
    assert found.figures["val_loss"] == pytest.approx(-np.log([0.5, 0.1]).mean())
    assert found.picks.first.tolist() == [0, 2, 0]
