"""Checks of the data: leaks, labels that don't match their lists, and limits that the data set."""

from __future__ import annotations

import math

from reranker.metrics import METRIC_NAMES
from results.diagnosis.checks.measures import (
    AT_GUESSING,
    FEW_STEPS,
    HARDLY,
    first_epoch,
    is_bold,
    limit_or_cause,
    most_by_chance,
    much_easier,
    new_examples,
    not_beaten,
    other_lists,
    pretty_metric,
    simple_baselines,
    steps_of,
    told_beaten,
    unmoved,
)
from results.diagnosis.checks.skill import names_without_rule
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Confidence, Finding, Grade
from results.statistics.training_loss import guessing_in_training, other_loss


def leaked_target(inputs: DiagnosisInputs) -> Finding | None:
    """The result is too good: better than a ranker that knows how the data were made, or almost without error."""
    recall, loss = inputs.best.get("recall_at_1", 0.0), inputs.best.get("val_loss", 0.0)
    with_recall = [row["recall_at_1"] for row in simple_baselines(inputs).values() if "recall_at_1" in row]
    best_simple = max(with_recall, default=0.0)
    if inputs.best_reachable is not None and recall > most_by_chance(inputs, inputs.best_reachable):
        seen = (
            f"Recall@1 is {recall:.3f}; someone who knows how these data were made reaches {inputs.best_reachable:.3f}"
        )
        confidence = Confidence.SURE
    elif best_simple >= 0.95 or (recall >= 0.95 and loss < 0.3):
        at_loss = f" at a loss of {loss:.2f} nats" if "val_loss" in inputs.best else ""
        beside = f", that of the best simple baseline {best_simple:.3f}" if with_recall else ""
        seen = f"Recall@1 is {recall:.3f}{at_loss}{beside}: what somebody takes next is hardly ever so certain"
        confidence = Confidence.POSSIBLE if 0.6 < best_simple < 0.95 else Confidence.LIKELY
    else:
        return None
    return Finding(
        "leaked target", seen,
        "the answer can be read off the prompt: from the history, a title, or its place in the list",
        "print some prompts with their answers; every history must end before its target, in training and in "
        "validation",
        confidence, Grade.CAUSE,
    )  # fmt: skip


def leaked_in_training(inputs: DiagnosisInputs) -> Finding | None:
    """In epoch 1 the training loss is far below that of guessing and far below the validation loss."""
    first = first_epoch(inputs)
    if first is None or other_lists(inputs):
        return None
    guessing = guessing_in_training(first, inputs.guessing)
    if first["train_loss"] > 0.35 * guessing:
        return None
    if first["val_loss"] < first["train_loss"] + 0.5 * guessing or not much_easier(inputs, first):
        return None
    return Finding(
        "leaked in training", f"{new_examples(first)}; that of {inputs.guess_in_training(first)}",
        "the training prompts give their answers away, and the model learns to find them there instead of ranking",
        "print some training prompts with their answers: is the target in the history, or always at the same label? "
        "Are they written as the validation prompts are?", Confidence.SURE, Grade.CAUSE,
    )  # fmt: skip


def labels_do_not_fit(inputs: DiagnosisInputs) -> Finding | None:
    """Long training at a usable rate ended at the loss of guessing."""
    long_trained = [
        trial for trial in inputs.trials if FEW_STEPS <= steps_of(trial) < math.inf and not other_loss(trial)
    ]
    with_loss = [trial for trial in long_trained if "train_loss" in trial.reports[-1]]
    gains = [inputs.gain_in_training(trial.reports[-1]) for trial in with_loss]
    if inputs.adds_counts:  # a model that finds nothing to add to counting ends there too
        return None
    if not inputs.at_chance or not gains or abs(max(gains)) > AT_GUESSING or unmoved(inputs):
        return None
    at_guessing = [trial for trial, gain in zip(with_loss, gains, strict=True) if gain > -AT_GUESSING]
    last = with_loss[gains.index(max(gains))].reports[-1]
    rates = sorted(trial.values["learning_rate"] for trial in at_guessing if "learning_rate" in trial.values)
    varied = len(rates) > 1 and rates[-1] >= 3 * rates[0]
    above_chance = {
        name: row
        for name, row in simple_baselines(inputs).items()
        if "recall_at_1" in row and not inputs.is_chance(row)
    }
    seen = f"after {steps_of(at_guessing[0]):.0f} steps the training loss is {last['train_loss']:.3f} nats, that of "
    seen += inputs.guess_in_training(last)
    seen += f", at rates from {rates[0]:.1e} to {rates[-1]:.1e} alike" if varied else ""
    means = "the answers that are trained don't go with their lists: shuffled, shifted by a row, or of another table"
    if above_chance:
        name, row = max(above_chance.items(), key=lambda item: item[1]["recall_at_1"])
        seen += f"; {name} has Recall@1 {row['recall_at_1']:.3f} on the same users, so there is something to learn"
    else:
        means += "; or the data hold nothing that tells about the next item"
    doubtful = (
        inputs.picks is None
        or (inputs.one_answer and inputs.list_dependence < HARDLY)
        or all(is_bold(trial) for trial in at_guessing)
    )
    confidence = Confidence.SURE if above_chance and varied else Confidence.POSSIBLE if doubtful else Confidence.LIKELY
    return Finding(
        "labels don't fit their lists", seen, means,
        "take ten training examples and read whether the candidate at the target's label is what the user took next",
        confidence, Grade.CAUSE,
    )  # fmt: skip


def baseline_does_as_well(inputs: DiagnosisInputs) -> Finding | None:
    """The best trial does not beat every baseline that needs no language model."""
    unbeaten = not_beaten(inputs)
    if not unbeaten or names_without_rule(inputs):  # that finding says more
        return None
    worse = inputs.comparison is not None and any(inputs.comparison.against[name].proven for name in unbeaten)
    return Finding(
        "a simple baseline does as well", told_beaten(inputs, unbeaten),
        "the language model adds nothing that counting does not know"
        + ("" if worse else ", as far as these users tell"),
        "more examples, a larger base, or longer histories; else use the baseline",
        Confidence.SURE if worse else Confidence.LIKELY, Grade.LIMIT,
    )  # fmt: skip


def retriever_ceiling(inputs: DiagnosisInputs) -> Finding | None:
    """The retriever loses more of the metric than the model does."""
    score, metric = inputs.best[inputs.metric], inputs.metric
    if inputs.hit == 1 or metric not in METRIC_NAMES or 1 - inputs.hit < inputs.hit - score:
        return None
    score_on_hits = inputs.best.get(f"retrieved/{metric}", score / inputs.hit if inputs.hit else 0.0)
    return Finding(
        "the retriever is the ceiling",
        f"{inputs.hit:.0%} of the lists hold their target, so no ranking has more than {inputs.hit:.3f} "
        f"{pretty_metric(metric)}; the best trial has {score:.3f}, and {score_on_hits:.3f} on the lists that hold it",
        f"of what is missing to 1, {1 - inputs.hit:.3f} is lost before the model sees the list and "
        f"{max(0.0, inputs.hit - score):.3f} by it",
        "a better retriever, or more candidates; tuning the model can win back the smaller part only",
        Confidence.SURE, limit_or_cause(inputs),
    )  # fmt: skip
