"""Rate, steps and epochs."""

from __future__ import annotations

import math
from itertools import pairwise

from reranker.metrics import METRIC_NAMES
from results.diagnosis.checks.measures import (
    AT_GUESSING,
    BELOW_GUESSING,
    FEW_STEPS,
    FLAT,
    HARDLY,
    HEEDLESS,
    LEANING,
    MATTERS,
    PLATEAU,
    STILL_LEARNING,
    WORSE,
    beats_all,
    collapsed,
    how_far_it_leads,
    is_bold,
    is_undecided,
    label_at,
    leaning,
    limit_or_cause,
    most_by_seed,
    other_loss,
    preferred_label,
    pretty_metric,
    steps_of,
    unmoved,
)
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Confidence, Finding, Grade
from results.statistics.what_was_learned import HALF, ZERO_SHOT
from results.study.study_folder import TrialStatus


def at_chance(e: DiagnosisInputs) -> Finding | None:
    if not e.at_chance:
        return None
    metric = "recall_at_1" if "recall_at_1" in e.best else "ndcg_at_10"
    level, half = e.chance[metric], 1.96 * e.error_of_chance(metric)
    seen = f"{pretty_metric(metric)} {e.best[metric]:.4f}; guessing gives {level:.4f} ± {half:.4f} with {e.users} users"
    if (loss := e.best.get("val_loss", e.best.get("train_loss"))) is not None:
        side = "not below" if loss >= e.guessing else "hardly below" if loss > e.guessing - BELOW_GUESSING else "below"
        seen += f"; the loss, {loss:.2f}, is {side} that of guessing, ln {e.candidates} = {e.guessing:.2f}"
    if metric in e.untrained and not e.is_chance(e.untrained):
        seen += f"; before any training the model has {pretty_metric(metric)} {e.untrained[metric]:.4f}"
    return Finding(
        "at chance", seen, "the model ranks as if it guessed: nothing has been learned that helps on new users",
        "mend what is named below; if nothing is, read ten prompts with their answers, as tokens. Comparing configurations is "
        "pointless until one is above chance",
        Confidence.SURE, Grade.SYMPTOM,
    )  # fmt: skip


def not_applied(e: DiagnosisInputs) -> Finding | None:
    wanted, applied = e.winner.values.get("learning_rate"), e.winner.epochs[-1].get("applied/learning_rate")
    if wanted is None or applied is None or math.isclose(applied, wanted, rel_tol=0.02):
        return None
    return Finding(
        "applied is not configured",
        f"trial {e.winner.number} asked for a learning rate of {wanted:g}; the optimiser never held more than {applied:g}",
        "what was compared is not what the table says", "shorten warmup_epochs, or train longer",
        Confidence.SURE, Grade.CAUSE,
    )  # fmt: skip


def too_few_steps(e: DiagnosisInputs) -> Finding | None:
    most = max(trial.epochs[-1].get("applied/optimizer_steps", math.inf) for trial in e.trials)
    if beats_all(e) or most >= PLATEAU:
        return None
    seen = f"the longest training took {most:.0f} optimiser steps"
    if most >= FEW_STEPS:
        signs = _still_at_its_start(e)
        if not signs:
            return None
        seen += f"; {'; '.join(signs)}"
    return Finding(
        "too few steps", seen,
        "an adapter begins at zero; so few steps cannot move it far, whatever the other knobs are"
        if most < FEW_STEPS else "a base that cannot name labels yet stays at the loss of guessing for its first "
        "hundreds of steps, and prefers some label",
        "more examples_per_user (null: every prefix), more epochs, or a smaller effective_batch, to some hundred steps"
        + ("" if most < FEW_STEPS or "applied/skill_steps" in e.best else "; `skill_steps: auto` saves most of them"),
        Confidence.SURE if most < FEW_STEPS else Confidence.LIKELY, Grade.CAUSE,
    )  # fmt: skip


def _still_at_its_start(e: DiagnosisInputs) -> list[str]:
    """By what a training that guesses shows that it has hardly begun, not that it went wrong; or nothing."""
    which = "validation" if other_loss(e.winner) else "training"
    losses = e.losses("val_loss" if other_loss(e.winner) else "train_loss")
    if not e.at_chance or not losses or min(losses) < e.guessing - AT_GUESSING or losses[0] - losses[-1] > WORSE:
        return []
    destroyed, confidence = _destroyed(e)
    if is_bold(e.winner) or unmoved(e) or (destroyed and confidence is not Confidence.POSSIBLE):
        return []
    if e.naming is not None and e.naming.knows:
        return []
    signs, mass = [], e.losses("label_mass")
    if e.picks is not None and e.data.get("candidate_order") != "retriever":
        moved, p = leaning(e.picks, e.candidates)
        if moved >= 2 * LEANING and p <= 0.001:
            label, share, _ = preferred_label(e, e.picks)
            signs.append(f"label {label} stands first in {share:.0%} of the lists")
    began = e.untrained.get("label_mass", mass[0] if len(mass) > 1 else None)
    if mass and mass[-1] < min(HALF, (1 if began is None else began) + WORSE):
        told = f"the labels have {mass[-1]:.0%} of the probability together"
        signs.append(told if began is None else f"{told}, and had {began:.0%} at the start")
    loss = (
        f"the {which} loss is {losses[-1]:.2f} nats, not below that of guessing, ln {e.candidates} = {e.guessing:.2f}"
    )
    return [loss, *signs] if signs else []


def rate_too_high(e: DiagnosisInputs) -> Finding | None:
    diverged = [trial for trial in e.failed if "diverged" in trial.cause]
    most = len(diverged) > len(e.trials)
    seen, confidence = _destroyed(e)
    if most:
        seen = f"{len(diverged)} of {len(e.trials) + len(e.failed)} trials diverged"
        confidence = Confidence.SURE
    failing = e.naming is not None and e.naming.fails  # which accounts for the same figures
    if not seen or (confidence is Confidence.POSSIBLE and failing):
        return None
    told = diverged if most else [e.winner]
    rates = [trial.values["learning_rate"] for trial in told if "learning_rate" in trial.values]
    return Finding(
        "rate too high", seen + (f" (learning_rate {min(rates):.1e})" if rates else ""),
        "the first steps destroyed what the base knew, and later ones can't bring it back",
        "lower learning_rate by ten; if all stays the same then, it is not the rate", confidence, Grade.CAUSE,
    )  # fmt: skip


def _destroyed(e: DiagnosisInputs) -> tuple[str, Confidence]:
    """By what the best trial shows that its model is out of order, or nothing; and how sure that is."""
    losses, bold = e.losses("train_loss"), is_bold(e.winner)
    if e.picks is not None and e.one_answer and e.list_dependence < HARDLY and steps_of(e.winner) >= FEW_STEPS:
        label, shares = label_at(e, int(e.picks.first[0])), e.picks.probability
        seen = f"the best trial puts label {label} first in every list, whatever stands in it, with a probability of "
        seen += f"{shares.mean():.4f} ± {shares.std():.4f}"
        if e.list_dependence < HEEDLESS:
            return seen, Confidence.SURE
        return seen, Confidence.LIKELY if bold else Confidence.POSSIBLE
    if len(losses) > 1 and losses[-1] > min(losses[:-1]) + max(0.3, 0.05 * min(losses[:-1])) and not unmoved(e):
        return f"the training loss rose from {min(losses[:-1]):.2f} to {losses[-1]:.2f} nats", Confidence.LIKELY
    if e.at_chance and collapsed(e) and (e.picks is None or bold):
        seen = f"after {steps_of(e.winner):.0f} steps the losses are those of guessing, {e.guessing:.2f} nats"
        return seen, Confidence.LIKELY if bold else Confidence.POSSIBLE
    return "", Confidence.POSSIBLE


def rate_too_low(e: DiagnosisInputs) -> Finding | None:
    losses = e.losses("train_loss")
    if steps_of(e.winner) < FEW_STEPS or math.isinf(steps_of(e.winner)) or not losses:
        return None
    if e.kept_first is not None:
        if not unmoved(e):
            return None
        seen = f"after {steps_of(e.winner):.0f} steps {e.kept_first:.0%} of the lists have the first place that the untrained "
        seen += f"model gives; its validation loss was {e.untrained.get('val_loss', math.nan):.2f} nats and is "
        seen += f"{e.best.get('val_loss', math.nan):.2f}"
    else:
        fall = (losses[0] - losses[-1]) / losses[0] / max(1, len(losses) - 1)
        if len(losses) < 2 or abs(fall) > FLAT or losses[-1] < e.guessing + AT_GUESSING:
            return None
        seen = f"the training loss went from {losses[0]:.3f} to {losses[-1]:.3f} nats in {len(losses)} epochs and "
        seen += f"{steps_of(e.winner):.0f} steps; guessing has {e.guessing:.2f}"
    rate = e.winner.values.get("learning_rate")
    return Finding(
        "rate too low", seen + (f" (learning_rate {rate:.1e})" if rate else ""),
        "the steps are too small to change the answers", "raise learning_rate by ten, and again until the loss falls",
        Confidence.LIKELY, Grade.CAUSE,
    )  # fmt: skip


def no_better_than_untrained(e: DiagnosisInputs) -> Finding | None:
    if overfitting(e):  # which says why
        return None
    for name, difference in (e.comparison.against if e.comparison else {}).items():
        if not name.startswith(ZERO_SHOT) or (difference.proven and difference.mean > 0) or is_undecided(e, name):
            continue
        verb = "worse than" if difference.proven else "no better than"
        losses = e.losses("val_loss")
        falling = len(losses) > 1 and losses[-1] < (1 - STILL_LEARNING) * losses[-2]
        return Finding(
            "no better than untrained", f"the best trial is {verb} {name}: {how_far_it_leads(e, [name])}",
            "the training has not brought anything" + (" yet: its loss is still falling" if falling else ""),
            "more epochs, or a higher learning_rate" if falling else "other rates, by three up and down, and more examples",
            Confidence.SURE if difference.proven else Confidence.LIKELY, Grade.CAUSE,
        )  # fmt: skip
    return None


def overfitting(e: DiagnosisInputs) -> Finding | None:
    trial, last = e.winner, e.winner.epochs[-1]
    first = trial.best("val_loss") if all("val_loss" in epoch for epoch in trial.epochs) else None
    if (
        first is None
        or "train_loss" not in last
        or last["val_loss"] < first["val_loss"] * (1 + most_by_seed(e)) + WORSE
    ):
        return None
    if last["train_loss"] > first["train_loss"] - WORSE:
        return None
    return Finding(
        "overfitting", f"after epoch {first['epoch']} the validation loss of trial {trial.number} rose from "
        f"{first['val_loss']:.2f} to {last['val_loss']:.2f} nats, while the training loss fell to {last['train_loss']:.2f}",
        "the adapter learns the training users by heart", "fewer epochs, more users or examples, lora_dropout, a lower rank",
        Confidence.SURE, limit_or_cause(e),
    )  # fmt: skip


def still_learning(e: DiagnosisInputs) -> Finding | None:
    trial, losses = e.winner, e.losses("val_loss")
    if len(losses) < 2 or trial.status is not TrialStatus.COMPLETED or e.best is not trial.epochs[-1]:
        return None
    falls = [(before - after) / before for before, after in pairwise(losses)]
    if min(falls[-2:]) < max(STILL_LEARNING, most_by_seed(e)):  # a single one may be luck
        return None
    if e.metric in METRIC_NAMES and trial.epochs[-1][e.metric] < trial.epochs[-2][e.metric] + MATTERS:
        return None
    return Finding(
        "still learning at its end", f"in epoch {len(losses)}, its last, the validation loss of trial {trial.number} fell "
        f"from {losses[-2]:.2f} to {losses[-1]:.2f} nats, and {pretty_metric(e.metric)} was the best yet, {e.best[e.metric]:.3f}",
        "the training ended before it had learned what it could (underfitting)", "more epochs, or more examples_per_user",
        Confidence.LIKELY, limit_or_cause(e),
    )  # fmt: skip
