"""Trials whose training loss is no cross-entropy over labels: no finding holds it against ln(candidates)."""

from __future__ import annotations

from typing import Any

import pytest

from reranker.config import TrialConfig
from reranker.metrics import chance
from results.diagnosis.diagnosis import diagnose
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Finding
from results.reporting.chart_data import Contest
from results.reporting.charts import losses
from results.study.stored_trial import StoredTrial, TrialStatus

CHANCE = {"recall_at_1": 0.05, "ndcg_at_10": 0.227}  # of 20 candidates, whose ln is 3.00
ABOVE = {"recall_at_1": 0.3, "ndcg_at_10": 0.5}


def a_trial(*epochs: dict[str, float], **knobs: Any) -> StoredTrial:
    """After 300 steps an epoch."""
    figures = [
        {"epoch": i, "applied/optimizer_steps": 300 * i, "applied/examples": 9999, **epoch}
        for i, epoch in enumerate(epochs, start=1)
    ]
    config = TrialConfig.model_validate({"model": "demo-small", "candidates": 20, "learning_rate": 1e-3, **knobs})
    return StoredTrial(0, config.model_dump(mode="json"), TrialStatus.COMPLETED, "", figures)


def findings(*epochs: dict[str, float], **knobs: Any) -> dict[str, Finding]:
    inputs = DiagnosisInputs([a_trial(*epochs, **knobs)], users=600, candidates=20, chance=chance(20))
    return {finding.name: finding for finding in diagnose(inputs)}


def test_at_chance_holds_the_validation_loss_against_guessing_whatever_was_trained():
    seen = findings({**CHANCE, "train_loss": 0.69, "val_loss": 3.01}, objective="ranknet")["at chance"].seen
    assert "the loss, 3.01, is not below that of guessing, ln 20 = 3.00" in seen


def test_at_chance_says_nothing_of_a_ranking_loss_alone():
    assert "loss" not in findings({**CHANCE, "train_loss": 0.69}, objective="ranknet")["at chance"].seen
    assert "the loss, 2.99, is hardly below" in findings({**CHANCE, "train_loss": 2.99})["at chance"].seen


def test_at_chance_says_nothing_of_the_losses_of_an_objective_that_is_no_likelihood():
    found = findings({**CHANCE, "train_loss": 4.0, "val_loss": 3.4}, objective="lambdaloss")
    assert "loss" not in found["at chance"].seen


@pytest.mark.parametrize(("objective", "told"), [("label_ce", True), ("ranknet", False), ("lambdaloss", False)])
def test_a_level_of_guessing_reached_by_a_ranking_loss_is_no_sign_of_labels_that_do_not_fit(objective, told):
    found = findings({**CHANCE, "train_loss": 3.0, "val_loss": 3.2}, objective=objective)
    assert ("labels don't fit their lists" in found) is told


def test_a_broken_model_is_told_by_its_validation_loss_where_the_training_s_is_another():
    found = findings({**CHANCE, "train_loss": 0.69, "val_loss": 3.0}, objective="ranknet", learning_rate=0.3)
    assert "after 300 steps the validation loss is that of guessing, ln 20 = 3.00" in found["rate too high"].seen


def test_a_ranking_loss_at_ln_n_is_no_sign_of_a_broken_model():
    assert "rate too high" not in findings({**CHANCE, "train_loss": 3.0}, objective="lambdaloss", learning_rate=0.3)
    assert "rate too high" in findings({**CHANCE, "train_loss": 3.0}, learning_rate=0.3)


@pytest.mark.parametrize(("objective", "last", "told"), [("ranknet", 0.50, False), ("ranknet", 0.56, True)])
def test_a_ranking_loss_that_rises_is_measured_by_its_own_level(objective, last, told):
    epochs = [{**ABOVE, "train_loss": loss, "val_loss": 2.1} for loss in (0.46, last)]
    found = findings(*epochs, objective=objective)
    assert ("rate too high" in found) is told
    if told:
        seen = found["rate too high"].seen
        assert seen.startswith("the training loss rose from 0.46 to 0.56 (objective: ranknet) (learning_rate")


def test_a_flat_ranking_loss_needs_a_flat_validation_loss_above_guessing_for_a_low_rate():
    flat = [{**ABOVE, "train_loss": 4.31, "val_loss": loss} for loss in (3.4, 3.39)]
    assert "the validation loss went from 3.400 to 3.390" in findings(*flat, objective="ranknet")["rate too low"].seen
    learned = [{**ABOVE, "train_loss": 4.31, "val_loss": 2.4}, {**ABOVE, "train_loss": 4.30, "val_loss": 2.39}]
    assert "rate too low" not in findings(*learned, objective="ranknet")


@pytest.mark.parametrize(("objective", "told"), [("ranknet", True), ("lambdaloss", False)])
def test_a_rising_validation_loss_is_overfitting_of_a_likelihood_alone(objective, told):
    epochs = [{**ABOVE, "train_loss": 0.5, "val_loss": 2.0}, {**ABOVE, "train_loss": 0.4, "val_loss": 2.9}]
    found = findings(*epochs, objective=objective)
    assert ("overfitting" in found) is told
    if told:
        assert found["overfitting"].seen.endswith("the training loss fell to 0.40 (objective: ranknet)")


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({}, "Validation ends 1.60 nats above training; a validation loss that turns upwards"),
        (
            {"objective": "ranknet"},
            "The training loss (dashed) is another one (objective: ranknet): neither the validation",
        ),
        ({"objective": "lambdaloss"}, "and no likelihood: the validation loss may rise while the ranking gets better."),
        ({"teacher": "item_knn", "skill_mix": 0.1}, "is another one (teacher: item_knn, skill_mix: 0.1)"),
    ],
)
def test_the_chart_of_losses_compares_what_can_be_compared(knobs, said):
    trial = a_trial({**ABOVE, "train_loss": 0.5, "val_loss": 2.1}, **knobs)
    caption = losses(Contest([trial], "ndcg_at_10", "NDCG@10", 0, frozenset({0}), {}, 20)).caption
    assert said in caption
