"""Trials that ask of each candidate by itself have no labels: nothing is found out about labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from reranker.metrics import Picks, chance
from results.diagnosis.diagnosis import diagnose
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from tests.diagnosis.test_other_losses import ABOVE, CHANCE, a_trial


def found(picks: Picks | None, figures: dict[str, float], **knobs: Any) -> dict[str, str]:
    trial = a_trial({"train_loss": 2.0, "val_loss": 2.1, **figures}, **knobs)
    inputs = DiagnosisInputs([trial], users=600, candidates=20, chance=chance(20), picks=picks)
    return {finding.name: finding.seen for finding in diagnose(inputs)}


@pytest.mark.parametrize(("scoring", "told"), [("listwise", True), ("pointwise", False)])
def test_no_label_is_preferred_where_there_are_none(scoring, told):
    targets = np.arange(600) % 20
    first = np.where(np.arange(600) % 2 == 0, 3, targets)
    picks = Picks(first=first, target=targets, probability=np.linspace(0.1, 0.9, 600))
    assert ("label prior" in found(picks, ABOVE, scoring=scoring)) is told


@pytest.mark.parametrize(
    ("knobs", "what"), [({"scoring": "listwise"}, "label A"), ({"scoring": "pointwise"}, "place 1")]
)
def test_one_answer_to_everything_is_named_by_what_there_is(knobs, what):
    picks = Picks(first=np.zeros(600, np.int64), target=np.arange(600) % 20, probability=np.full(600, 0.05))
    seen = found(picks, {**CHANCE, "train_loss": 3.0, "val_loss": 3.0}, learning_rate=0.3, **knobs)["rate too high"]
    assert seen.startswith(f"the best trial puts {what} first in every list, whatever stands in it")


def test_where_titles_were_not_asked_for_nothing_is_said_of_naming_labels():
    seen = found(None, {**CHANCE, "train_loss": 3.0, "val_loss": 3.0, "label_mass": 0.01}, scoring="pointwise")
    assert "cannot name labels yet" not in seen
    assert not any("the labels have" in text for text in seen.values())
