"""Figures and thresholds that several checks share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

from reranker.metrics import Picks
from reranker.prompting.labels import label_texts
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Grade
from results.leaderboard import PRETTY
from results.statistics.learning_summary import ZERO_SHOT
from results.statistics.training_loss import is_no_likelihood, other_loss
from results.statistics.verdict_text import p_value, signed
from results.study.stored_trial import StoredTrial

FEW_STEPS = 60  # optimiser steps; a LoRA adapter starts at zero, and a step moves a weight by at most the rate
PLATEAU = 300  # steps that a base may stay at the loss of guessing before it names labels (a toy took 275: docs/LOG.md)
AT_GUESSING = 0.08  # nats from the loss of guessing; closer than this, the base has lost what it knew
SAME = 0.9  # share of lists with the same first place as before training, from which on training changed nothing
ONE_LABEL = 0.8  # share of first places with one label, from which on two models that prefer that label agree anyway
FLAT = 0.02  # relative change of a loss per epoch; below this, nothing was learned
BOLD = 1e-2  # a learning rate above what adapters are known to tolerate
HEEDLESS = 0.002  # `DiagnosisInputs.list_dependence` below which the model is broken
HARDLY = (
    0.015  # likewise, below which it may be broken; a model trained on random labels also learns to ignore the list
)
EASIER = 0.5  # nats by which training may be easier than validation in an epoch of new examples only
BELOW_GUESSING = 0.3  # nats below the loss of guessing; from there on, the model has certainly learned something
WORSE = 0.1  # nats by which a loss changes when the model overfits
RISEN = 0.15  # relative rise of a training loss that is not in nats, or not of labels alone; more tells of damage
STILL_LEARNING = 0.05  # relative fall of the validation loss; if the last epoch brought more, training should go on
LEANING = 0.15  # share of first places that would have to move so that no label is preferred
MATTERS = 0.02  # of the metric; a smaller gain does not count
VAGUE = 0.05  # half-width of a difference's interval; a wider interval says nothing
SHUFFLES = 2000
LOST, CANNOT = "knew how to name labels and lost it", "cannot name labels yet"
ADDS_NOTHING = "adds nothing to counting"
RULELESS = "names labels but does not know the rule"


def steps_of(trial: StoredTrial) -> float:
    """A trial's optimiser steps; infinite if unknown."""
    return float(trial.reports[-1].get("applied/optimizer_steps", math.inf))


def limit_or_cause(inputs: DiagnosisInputs) -> Grade:
    """The grade of what holds training back: a cause if the result is at chance, else a limit."""
    return Grade.CAUSE if inputs.at_chance else Grade.LIMIT


def gain_of(inputs: DiagnosisInputs, trial: StoredTrial) -> float:
    """A trial's best value of the study's metric, with the sign that makes higher better."""
    figures = trial.best(inputs.metric)
    assert figures is not None
    return float(figures[inputs.metric]) * (-1 if inputs.metric.endswith("_loss") else 1)


def simple_baselines(inputs: DiagnosisInputs) -> dict[str, dict[str, Any]]:
    """The baselines that need no language model."""
    return {name: row for name, row in inputs.references.items() if not name.startswith(ZERO_SHOT)}


def first_epoch(inputs: DiagnosisInputs) -> dict[str, Any] | None:
    """The best trial's first epoch, if both losses are known and comparable."""
    first = inputs.winner.whole_epochs[0]
    return (
        first
        if not other_loss(inputs.winner) and first.get("epoch") == 1 and {"train_loss", "val_loss"} <= first.keys()
        else None
    )


def most_by_seed(inputs: DiagnosisInputs) -> float:
    """The relative change of a validation loss between epochs that luck explains.

    Two standard errors, if the losses of single lists change by half their value.
    """
    return 1 / math.sqrt(inputs.users)


def much_easier(inputs: DiagnosisInputs, epoch: dict[str, Any]) -> bool:
    """Whether an epoch's training loss is further below its validation loss than luck explains.

    Assumes that the losses of single lists have a standard deviation equal to their mean.
    """
    examples = epoch.get("applied/examples", inputs.users) / epoch["epoch"]
    noise = math.hypot(epoch["train_loss"] / math.sqrt(examples), epoch["val_loss"] / math.sqrt(inputs.users))
    lead = inputs.gain_in_training(epoch) - (inputs.guessing - epoch["val_loss"])  # each against guessing on its lists
    return bool(lead > EASIER + 2 * noise)


def new_examples(first: dict[str, Any]) -> str:
    """The two losses of epoch 1, as a phrase."""
    return (
        f"in epoch 1, whose examples are all new to the model, the training loss was {first['train_loss']:.2f} nats; "
        f"on the validation lists it was {first['val_loss']:.2f} after it"
    )


def other_lists(inputs: DiagnosisInputs) -> str:
    """The known difference between scored and training lists, as a phrase; empty if there is none."""
    negatives = inputs.winner.values.get("negatives") or {}
    if inputs.data.get("candidate_mode") == "retrieval" and negatives.get("retriever", 0) < 1:
        return (
            f"the scored lists come from a retriever, {negatives.get('retriever', 0):.0%} of the training negatives do"
        )
    scored_negatives = inputs.data.get("evaluation_negatives", "uniform")
    if scored_negatives != "uniform" and negatives.get(scored_negatives, 0) < 1:
        return (
            f"the scored lists have negatives by {scored_negatives}, as have {negatives.get(scored_negatives, 0):.0%} "
            "of those trained on"
        )
    return ""


def is_bold(trial: StoredTrial) -> bool:
    """Whether the learning rate is above `BOLD`."""
    return bool(trial.values.get("learning_rate", 0.0) > BOLD)


def is_pointwise(inputs: DiagnosisInputs) -> bool:
    """Whether the best trial asks of each candidate by itself, so that no labels, and no places, can be preferred."""
    return inputs.winner.values.get("scoring") == "pointwise"


def label_at(inputs: DiagnosisInputs, place: int) -> str:
    """The label of a position in the prompt, counted from 0. Which tokens `id_tokens` takes, the tokenizer alone knows."""
    style = inputs.winner.values.get("label_style", "numbers")
    return f"number {place + 1}" if style == "id_tokens" else label_texts(style, place + 1)[place]


def preferred_label(inputs: DiagnosisInputs, picks: Picks) -> tuple[str, float, float]:
    """The most over-ranked label: (label, share of lists that rank it first, share of lists where it is right)."""
    listed = picks.target >= 0
    first_shares, right_shares = (
        np.bincount(x[listed], minlength=inputs.candidates) / listed.sum() for x in (picks.first, picks.target)
    )
    place = int((first_shares - right_shares).argmax())
    return label_at(inputs, place), float(first_shares[place]), float(right_shares[place])


def unmoved(inputs: DiagnosisInputs) -> bool:
    """Whether the answers are the untrained model's. If one label dominates them, the loss must be unchanged too."""
    if inputs.kept_first is None or inputs.kept_first < SAME or inputs.adds_counts:
        return False
    loss_before, loss_after = inputs.untrained.get("val_loss"), inputs.best.get("val_loss")
    one_label = inputs.picks is not None and bool(
        np.bincount(inputs.picks.first).max() >= ONE_LABEL * len(inputs.picks.first)
    )
    if not one_label or loss_before is None or loss_after is None:
        return True
    return bool(abs(loss_after - loss_before) < STILL_LEARNING * loss_before)


def gains_by_epoch(inputs: DiagnosisInputs) -> list[float]:
    """How far the training loss, where that can be compared, else the validation loss, is below that of guessing, in nats."""
    if other_loss(inputs.winner):
        return [inputs.guessing - loss for loss in inputs.losses("val_loss")]
    return [inputs.gain_in_training(epoch) for epoch in inputs.winner.whole_epochs if "train_loss" in epoch]


def guess_by_epoch(inputs: DiagnosisInputs) -> str:
    """What the loss of `gains_by_epoch` is held against, and its value in the last epoch, as a phrase."""
    last = inputs.winner.whole_epochs[-1]
    return inputs.guess if other_loss(inputs.winner) or "train_loss" not in last else inputs.guess_in_training(last)


def collapsed(inputs: DiagnosisInputs) -> bool:
    """Whether the validation loss is at guessing and the training loss, where it can be compared, not below it."""
    last = inputs.winner.reports[-1]
    trained = None if other_loss(inputs.winner) or "train_loss" not in last else inputs.gain_in_training(last)
    loss = last.get("val_loss", None if trained is None else inputs.guessing - trained)
    if loss is None or not FEW_STEPS <= steps_of(inputs.winner) < math.inf:
        return False
    at_guessing = abs(loss - inputs.guessing) < 0.15
    return bool(at_guessing and (trained is None or trained < AT_GUESSING))


def comparable_loss(inputs: DiagnosisInputs) -> float | None:
    """A loss of the best epoch that may be held against that of guessing; None if there is none."""
    if is_no_likelihood(inputs.winner):
        return None
    trained = None if other_loss(inputs.winner) else inputs.best.get("train_loss")
    loss = inputs.best.get("val_loss", trained)
    return None if loss is None else float(loss)


def beats_all(inputs: DiagnosisInputs) -> bool:
    """Whether the best trial is proven better than every baseline."""
    against = inputs.comparison.against.values() if inputs.comparison else ()
    return bool(against) and all(difference.proven and difference.mean > 0 for difference in against)


def not_beaten(inputs: DiagnosisInputs) -> list[str]:
    """Simple baselines that the best trial is not proven better than; undecided ones are left out."""
    if inputs.comparison is None:  # the inputs are a table
        sign = -1 if inputs.metric.endswith("_loss") else 1
        return [
            name
            for name, row in simple_baselines(inputs).items()
            if inputs.metric in row and sign * (row[inputs.metric] - inputs.best[inputs.metric]) >= 0
        ]
    against = {
        name: difference for name, difference in inputs.comparison.against.items() if not name.startswith(ZERO_SHOT)
    }
    return [
        name
        for name, difference in against.items()
        if not (difference.proven and difference.mean > 0) and not is_undecided(inputs, name)
    ]


def told_beaten(inputs: DiagnosisInputs, names: list[str]) -> str:
    """How the best trial compares with these baselines, as a phrase."""
    if inputs.comparison is None:
        baseline_scores = "; ".join(f"{name} has {inputs.references[name][inputs.metric]:.3f}" for name in names)
        return f"the best trial has {pretty_metric(inputs.metric)} {inputs.best[inputs.metric]:.3f}; {baseline_scores}"
    metric = inputs.comparison.metric
    return f"the best trial has {pretty_metric(metric)} {inputs.best[metric]:.3f}; {how_far_it_leads(inputs, names)}"


def is_poor(inputs: DiagnosisInputs) -> bool:
    """Whether the ranking is at chance or does not beat a simple baseline."""
    return inputs.at_chance or bool(not_beaten(inputs))


def is_undecided(inputs: DiagnosisInputs, name: str) -> bool:
    """Whether the lead over a baseline is unproven but may be real: it is large, or its interval is wide."""
    assert inputs.comparison is not None
    difference = inputs.comparison.against[name]
    wide = (difference.high - difference.low) / 2 > VAGUE
    return not difference.proven and difference.high > MATTERS and (difference.mean > MATTERS or wide)


def how_far_it_leads(inputs: DiagnosisInputs, names: list[str]) -> str:
    """The lead of the best trial over baselines, with 95% intervals, as a phrase."""
    assert inputs.comparison is not None
    leads = []
    for name in names:
        difference = inputs.comparison.against[name]
        interval = f"{signed(difference.low)} to {signed(difference.high)}"
        leads.append(f"over {name} is {signed(difference.mean)} ({interval}, {p_value(difference.p)})")
    return f"the lead of the best trial in {pretty_metric(inputs.comparison.metric)} {', '.join(leads)}"


def leaning(picks: Picks, candidates: int) -> tuple[float, float]:
    """How much the labels ranked first differ from the right ones: (share of lists beyond chance, p).

    The share is the total variation distance between the two histograms, minus its mean under the null: a coin swaps
    the first and the right label of each list. Then no label is preferred, and the ranker is right just as often.
    """
    listed = picks.target >= 0
    first, right = picks.first[listed], picks.target[listed]
    rows = np.flatnonzero(first != right)
    if not len(rows):
        return 0.0, 1.0
    moves = np.zeros((len(rows), candidates))
    moves[np.arange(len(rows)), first[rows]] += 1
    moves[np.arange(len(rows)), right[rows]] -= 1
    observed = np.abs(moves.sum(axis=0)).sum() / 2
    signs = np.random.default_rng(0).integers(0, 2, (SHUFFLES, len(rows))) * 2.0 - 1.0
    swapped = np.abs(signs @ moves).sum(axis=1) / 2
    return float(observed - swapped.mean()) / len(first), float(((swapped >= observed).sum() + 1) / (SHUFFLES + 1))


def most_by_chance(inputs: DiagnosisInputs, level: float) -> float:
    """The most that the best of all epochs reaches in 995 of 1000 studies if the expected Recall@1 is `level`."""
    z = stats.norm.ppf(1 - 0.005 / sum(len(trial.reports) for trial in inputs.trials))
    return level + float(z) * math.sqrt(level * (1 - level) / inputs.scored_users)


def pretty_metric(metric: str) -> str:
    """A metric's name as people write it."""
    return PRETTY.get(metric, metric)
