"""Whether the lists and their texts are what they should be."""

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
    other_loss,
    pretty_metric,
    simple_baselines,
    steps_of,
    told_beaten,
    unmoved,
)
from results.diagnosis.checks.skill import names_without_rule
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Confidence, Finding, Grade


def leaked_target(e: DiagnosisInputs) -> Finding | None:
    """Too good to be true: better than who knows the rule of the data, or next to no error at all."""
    reached, loss = e.best.get("recall_at_1", 0.0), e.best.get("val_loss", 0.0)
    simple = max((row["recall_at_1"] for row in simple_baselines(e).values() if "recall_at_1" in row), default=0.0)
    if e.best_reachable is not None and reached > most_by_chance(e, e.best_reachable):
        seen = f"Recall@1 is {reached:.3f}; who knows how these data were made reaches {e.best_reachable:.3f}"
        confidence = Confidence.SURE
    elif simple >= 0.95 or (reached >= 0.95 and loss < 0.3):
        seen = f"Recall@1 is {reached:.3f} at a loss of {loss:.2f} nats, that of the best simple baseline {simple:.3f}"
        seen += ": what somebody takes next is hardly ever so certain"
        confidence = Confidence.POSSIBLE if 0.6 < simple < 0.95 else Confidence.LIKELY
    else:
        return None
    return Finding(
        "leaked target", seen, "the answer can be read off the prompt: from the history, a title, or its place in the list",
        "print some prompts with their answers; every history must end before its target, in training and in validation",
        confidence, Grade.CAUSE,
    )  # fmt: skip


def leaked_in_training(e: DiagnosisInputs) -> Finding | None:
    first = first_epoch(e)
    if first is None or first["train_loss"] > 0.35 * e.guessing or other_lists(e):
        return None
    if first["val_loss"] < first["train_loss"] + 0.5 * e.guessing or not much_easier(e, first):
        return None
    return Finding(
        "leaked in training", f"{new_examples(first)}; guessing has {e.guessing:.2f}",
        "the training prompts give their answers away, and the model learns to find them there instead of ranking",
        "print some training prompts with their answers: is the target in the history, or always at the same label? Are "
        "they written as the validation prompts are?", Confidence.SURE, Grade.CAUSE,
    )  # fmt: skip


def labels_do_not_fit(e: DiagnosisInputs) -> Finding | None:
    """Long enough at a rate that leaves the model able to answer, and yet it learned that all labels are alike."""
    long = [trial for trial in e.trials if FEW_STEPS <= steps_of(trial) < math.inf and not other_loss(trial)]
    trained = [trial for trial in long if "train_loss" in trial.epochs[-1]]
    losses = [trial.epochs[-1]["train_loss"] for trial in trained]
    if not e.at_chance or not losses or abs(min(losses) - e.guessing) > AT_GUESSING or unmoved(e):
        return None
    there = [t for t, loss in zip(trained, losses, strict=True) if loss < e.guessing + AT_GUESSING]
    rates = sorted(trial.values["learning_rate"] for trial in there if "learning_rate" in trial.values)
    varied = len(rates) > 1 and rates[-1] >= 3 * rates[0]
    known = {name: row for name, row in simple_baselines(e).items() if "recall_at_1" in row and not e.is_chance(row)}
    seen = f"after {steps_of(there[0]):.0f} steps the training loss is {min(losses):.3f} nats, that of guessing"
    seen += f" (ln {e.candidates} = {e.guessing:.3f})"
    seen += f", at rates from {rates[0]:.1e} to {rates[-1]:.1e} alike" if varied else ""
    means = "the answers that are trained don't go with their lists: shuffled, shifted by a row, or of another table"
    if known:
        name, row = max(known.items(), key=lambda item: item[1]["recall_at_1"])
        seen += f"; {name} has Recall@1 {row['recall_at_1']:.3f} on the same users, so there is something to learn"
    else:
        means += "; or the data hold nothing that tells about the next item"
    doubtful = (
        e.picks is None or (e.one_answer and e.list_dependence < HARDLY) or all(is_bold(trial) for trial in there)
    )
    confidence = Confidence.SURE if known and varied else Confidence.POSSIBLE if doubtful else Confidence.LIKELY
    return Finding(
        "labels don't fit their lists", seen, means,
        "take ten training examples and read whether the candidate at the target's label is what the user took next",
        confidence, Grade.CAUSE,
    )  # fmt: skip


def baseline_does_as_well(e: DiagnosisInputs) -> Finding | None:
    beaten = not_beaten(e)
    if not beaten or names_without_rule(e):  # which says more
        return None
    worse = e.comparison is not None and any(e.comparison.against[name].proven for name in beaten)
    return Finding(
        "a simple baseline does as well", told_beaten(e, beaten),
        "the language model adds nothing that counting does not know" + ("" if worse else ", as far as these users tell"),
        "more examples, a larger base, or longer histories; else use the baseline",
        Confidence.SURE if worse else Confidence.LIKELY, Grade.LIMIT,
    )  # fmt: skip


def retriever_ceiling(e: DiagnosisInputs) -> Finding | None:
    score, metric = e.best[e.metric], e.metric
    if e.hit == 1 or metric not in METRIC_NAMES or 1 - e.hit < e.hit - score:
        return None
    within = e.best.get(f"retrieved/{metric}", score / e.hit if e.hit else 0.0)
    return Finding(
        "the retriever is the ceiling", f"{e.hit:.0%} of the lists hold their target, so no ranking has more than {e.hit:.3f} "
        f"{pretty_metric(metric)}; the best trial has {score:.3f}, and {within:.3f} on the lists that hold it",
        f"of what is missing to 1, {1 - e.hit:.3f} is lost before the model sees the list and {e.hit - score:.3f} by it",
        "a better retriever, or more candidates; tuning the model can win back the smaller part only",
        Confidence.SURE, limit_or_cause(e),
    )  # fmt: skip
