"""Checks of the optimisation: learning rate, steps and epochs."""

from __future__ import annotations

import math
from itertools import pairwise

from reranker.data.baselines.baseline_ranks import COLLABORATIVE
from reranker.metrics import METRIC_NAMES
from reranker.report_figures import scored_share
from results.diagnosis.checks.measures import (
    ADDS_NOTHING,
    AT_GUESSING,
    BELOW_GUESSING,
    FEW_STEPS,
    FLAT,
    HARDLY,
    HEEDLESS,
    LEANING,
    MATTERS,
    PLATEAU,
    RISEN,
    STILL_LEARNING,
    WORSE,
    beats_all,
    collapsed,
    comparable_loss,
    gains_by_epoch,
    guess_by_epoch,
    how_far_it_leads,
    is_bold,
    is_pointwise,
    is_undecided,
    label_at,
    leaning,
    limit_or_cause,
    most_by_seed,
    preferred_label,
    pretty_metric,
    steps_of,
    unmoved,
)
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Confidence, Finding, Grade
from results.statistics.learning_summary import HALF, ZERO_SHOT
from results.statistics.training_loss import is_no_likelihood, other_loss, what_is_trained
from results.statistics.verdict_text import counted
from results.study.stored_trial import TrialStatus


def at_chance(inputs: DiagnosisInputs) -> Finding | None:
    """The best trial ranks no better than guessing."""
    if not inputs.at_chance or inputs.adds_counts:
        return None
    metric = "recall_at_1" if "recall_at_1" in inputs.best else "ndcg_at_10"
    level, half_width = inputs.chance[metric], 1.96 * inputs.error_of_chance(metric, scored_share(inputs.best))
    seen = (
        f"{pretty_metric(metric)} {inputs.best[metric]:.4f}; guessing gives {level:.4f} ± {half_width:.4f} with "
        f"{counted(inputs.scored_users, 'user')}"
    )
    if (loss := comparable_loss(inputs)) is not None:
        side = (
            "not below"
            if loss >= inputs.guessing
            else "hardly below"
            if loss > inputs.guessing - BELOW_GUESSING
            else "below"
        )
        seen += f"; the loss, {loss:.2f}, is {side} that of {inputs.guess}"
    if metric in inputs.untrained and not inputs.is_chance(inputs.untrained):
        seen += f"; before any training the model has {pretty_metric(metric)} {inputs.untrained[metric]:.4f}"
    return Finding(
        "at chance", seen, "the model ranks as if it guessed: nothing has been learned that helps on new users",
        "fix what is named below; if nothing is, read ten prompts with their answers, as tokens. Comparing "
        "configurations is pointless until one is above chance",
        Confidence.SURE, Grade.SYMPTOM,
    )  # fmt: skip


def adds_nothing(inputs: DiagnosisInputs) -> Finding | None:
    """With collaborative scores: the best trial ranks no better than they do without it."""
    if not inputs.at_chance or not inputs.adds_counts:
        return None
    metric = inputs.comparison.metric if inputs.comparison else inputs.metric
    parts = []
    if inputs.comparison and COLLABORATIVE in inputs.comparison.against:  # a study may have other baselines alone
        parts.append(how_far_it_leads(inputs, [COLLABORATIVE]))
    elif metric in inputs.best:
        parts.append(f"{pretty_metric(metric)} {inputs.best[metric]:.3f}")
    if (loss := comparable_loss(inputs)) is not None:
        parts.append(f"the loss, {loss:.2f}, stands against that of {inputs.guess}")
    alone, level = inputs.best.get(f"alone/{metric}"), inputs.chance.get(metric)
    if alone is not None and level is not None:
        parts.append(f"by itself the model has {pretty_metric(metric)} {alone:.3f}, guessing {level:.3f}")
    return Finding(
        ADDS_NOTHING, "; ".join(parts),
        "the ranking is that of counting what users did; the language model has learned nothing that adds to it",
        "fix what is named below; if nothing is, the titles may not tell more than the counts do",
        Confidence.LIKELY, Grade.SYMPTOM,
    )  # fmt: skip


def not_applied(inputs: DiagnosisInputs) -> Finding | None:
    """The optimiser never reached the configured learning rate."""
    configured_rate = inputs.winner.values.get("learning_rate")
    applied_rate = inputs.winner.reports[-1].get("applied/learning_rate")
    if configured_rate is None or applied_rate is None or math.isclose(applied_rate, configured_rate, rel_tol=0.02):
        return None
    return Finding(
        "applied is not configured",
        f"trial {inputs.winner.number} asked for a learning rate of {configured_rate:g}; the optimiser never held more "
        f"than {applied_rate:g}",
        "what was compared is not what the table says", "shorten warmup_epochs, or train longer",
        Confidence.SURE, Grade.CAUSE,
    )  # fmt: skip


def too_few_steps(inputs: DiagnosisInputs) -> Finding | None:
    """Even the longest training was too short to learn anything."""
    most_steps = max(trial.reports[-1].get("applied/optimizer_steps", math.inf) for trial in inputs.trials)
    if beats_all(inputs) or most_steps >= PLATEAU:
        return None
    seen = f"the longest training took {most_steps:.0f} optimiser steps"
    if most_steps >= FEW_STEPS:
        signs = _still_at_its_start(inputs)
        if not signs:
            return None
        seen += f"; {'; '.join(signs)}"
    return Finding(
        "too few steps", seen,
        "an adapter begins at zero; so few steps cannot move it far, whatever the other knobs are"
        if most_steps < FEW_STEPS else "a base that cannot name labels yet stays at the loss of guessing for its first "
        "hundreds of steps, and prefers some label",
        "more examples_per_user (null: every prefix), more epochs, or a smaller effective_batch, to some hundred steps"
        + ("" if most_steps < FEW_STEPS or "applied/skill_steps" in inputs.best
           else "; `skill_steps: auto` saves most of them"),
        Confidence.SURE if most_steps < FEW_STEPS else Confidence.LIKELY, Grade.CAUSE,
    )  # fmt: skip


def _still_at_its_start(inputs: DiagnosisInputs) -> list[str]:
    """Signs that a training at chance has hardly begun, rather than gone wrong; empty if there are none."""
    loss_kind = "validation" if other_loss(inputs.winner) else "training"
    losses = inputs.losses("val_loss" if other_loss(inputs.winner) else "train_loss")
    gains = gains_by_epoch(inputs)
    if is_no_likelihood(inputs.winner):
        return []  # no loss of its tells how far it has come
    if not inputs.at_chance or not losses or max(gains) > AT_GUESSING or losses[0] - losses[-1] > WORSE:
        return []
    damage, confidence = _destroyed(inputs)
    if is_bold(inputs.winner) or unmoved(inputs) or (damage and confidence is not Confidence.POSSIBLE):
        return []
    if is_pointwise(inputs) or (inputs.naming is not None and inputs.naming.knows):
        return []
    signs, masses = [], inputs.losses("label_mass")
    if inputs.picks is not None and inputs.data.get("candidate_order") != "retriever":
        moved, p = leaning(inputs.picks, inputs.candidates)
        if moved >= 2 * LEANING and p <= 0.001:
            label, share, _ = preferred_label(inputs, inputs.picks)
            signs.append(f"label {label} stands first in {share:.0%} of the lists")
    mass_before = inputs.untrained.get("label_mass", masses[0] if len(masses) > 1 else None)
    if masses and masses[-1] < min(HALF, (1 if mass_before is None else mass_before) + WORSE):
        mass_text = f"the labels have {masses[-1]:.0%} of the probability together"
        signs.append(mass_text if mass_before is None else f"{mass_text}, and had {mass_before:.0%} at the start")
    loss = f"the {loss_kind} loss is {losses[-1]:.2f} nats, not below that of {guess_by_epoch(inputs)}"
    return [loss, *signs] if signs else []


def rate_too_high(inputs: DiagnosisInputs) -> Finding | None:
    """Most trials diverged, or the best trial's model is broken."""
    diverged = [trial for trial in inputs.failed if "diverged" in trial.cause]
    mostly_diverged = len(diverged) > inputs.ended - len(inputs.failed)
    seen, confidence = _destroyed(inputs)
    if mostly_diverged:
        seen = f"{len(diverged)} of {inputs.ended} trials diverged"
        confidence = Confidence.SURE
    naming_fails = inputs.naming is not None and inputs.naming.fails  # explains the same figures
    if not seen or (confidence is Confidence.POSSIBLE and naming_fails):
        return None
    trials = diverged if mostly_diverged else [inputs.winner]
    rates = [trial.values["learning_rate"] for trial in trials if "learning_rate" in trial.values]
    return Finding(
        "rate too high", seen + (f" (learning_rate {min(rates):.1e})" if rates else ""),
        "the first steps destroyed what the base knew, and later ones can't bring it back",
        "lower learning_rate by ten; if all stays the same then, it is not the rate", confidence, Grade.CAUSE,
    )  # fmt: skip


def _destroyed(inputs: DiagnosisInputs) -> tuple[str, Confidence]:
    """Evidence that the best trial's model is broken (empty if none), and how sure that is."""
    losses, bold_rate = inputs.losses("train_loss"), is_bold(inputs.winner)
    if (
        inputs.picks is not None
        and inputs.one_answer
        and inputs.list_dependence < HARDLY
        and steps_of(inputs.winner) >= FEW_STEPS
    ):
        place, probabilities = int(inputs.picks.first[0]), inputs.picks.probability
        what = f"place {place + 1}" if is_pointwise(inputs) else f"label {label_at(inputs, place)}"
        seen = f"the best trial puts {what} first in every list, whatever stands in it, with a probability of "
        seen += f"{probabilities.mean():.4f} ± {probabilities.std():.4f}"
        if inputs.list_dependence < HEEDLESS:
            return seen, Confidence.SURE
        return seen, Confidence.LIKELY if bold_rate else Confidence.POSSIBLE
    if len(losses) > 1 and losses[-1] > min(losses[:-1]) + _rise(inputs, min(losses[:-1])) and not unmoved(inputs):
        rise = f"from {min(losses[:-1]):.2f} to {losses[-1]:.2f}"
        unit = what_is_trained(inputs.winner) or " nats"
        return f"the training loss rose {rise}{unit}", Confidence.LIKELY
    if inputs.at_chance and collapsed(inputs) and (inputs.picks is None or bold_rate):
        both = not other_loss(inputs.winner) and guess_by_epoch(inputs) == inputs.guess
        which = "losses are" if both else "validation loss is"
        seen = f"after {steps_of(inputs.winner):.0f} steps the {which} that of {inputs.guess}"
        return seen, Confidence.LIKELY if bold_rate else Confidence.POSSIBLE
    return "", Confidence.POSSIBLE


def _rise(inputs: DiagnosisInputs, least: float) -> float:
    """By how much a training loss must rise above its least value to tell of damage, in its own unit."""
    return RISEN * least if other_loss(inputs.winner) else max(0.3, 0.05 * least)


def rate_too_low(inputs: DiagnosisInputs) -> Finding | None:
    """Enough steps were taken, and the answers or the loss hardly changed."""
    losses = inputs.losses("train_loss")
    if steps_of(inputs.winner) < FEW_STEPS or math.isinf(steps_of(inputs.winner)) or not losses:
        return None
    if inputs.kept_first is not None:
        if not unmoved(inputs):
            return None
        loss_before, loss_after = (figures.get("val_loss", math.nan) for figures in (inputs.untrained, inputs.best))
        seen = f"after {steps_of(inputs.winner):.0f} steps {inputs.kept_first:.0%} of the lists have the first place "
        seen += (
            f"that the untrained model gives; its validation loss was {loss_before:.2f} nats and is {loss_after:.2f}"
        )
    else:
        which = "validation" if other_loss(inputs.winner) else "training"  # the one that guessing has too
        held = inputs.losses("val_loss") if other_loss(inputs.winner) else losses
        if len(losses) < 2 or len(held) < 2 or is_no_likelihood(inputs.winner):
            return None
        if any(abs(_fall(of_epochs)) > FLAT for of_epochs in (losses, held)):
            return None
        gains = gains_by_epoch(inputs)
        if gains[-1] > -AT_GUESSING:
            return None
        seen = f"the {which} loss went from {held[0]:.3f} to {held[-1]:.3f} nats in {len(held)} epochs and "
        seen += f"{steps_of(inputs.winner):.0f} steps, not below that of {guess_by_epoch(inputs)}"
    rate = inputs.winner.values.get("learning_rate")
    return Finding(
        "rate too low", seen + (f" (learning_rate {rate:.1e})" if rate else ""),
        "the steps are too small to change the answers", "raise learning_rate by ten, and again until the loss falls",
        Confidence.LIKELY, Grade.CAUSE,
    )  # fmt: skip


def _fall(losses: list[float]) -> float:
    """The share of a loss that an epoch took off it, on average."""
    return (losses[0] - losses[-1]) / losses[0] / (len(losses) - 1)


def no_better_than_untrained(inputs: DiagnosisInputs) -> Finding | None:
    """The best trial is not proven better than an untrained model."""
    if overfitting(inputs):  # that finding says why
        return None
    for name, difference in (inputs.comparison.against if inputs.comparison else {}).items():
        if not name.startswith(ZERO_SHOT) or (difference.proven and difference.mean > 0) or is_undecided(inputs, name):
            continue
        verb = "worse than" if difference.proven else "no better than"
        losses = inputs.losses("val_loss")
        falling = len(losses) > 1 and losses[-1] < (1 - STILL_LEARNING) * losses[-2]
        falling &= not is_no_likelihood(inputs.winner)
        return Finding(
            "no better than untrained", f"the best trial is {verb} {name}: {how_far_it_leads(inputs, [name])}",
            "the training has not brought anything" + (" yet: its loss is still falling" if falling else ""),
            "more epochs, or a higher learning_rate" if falling
            else "other rates, by three up and down, and more examples",
            Confidence.SURE if difference.proven else Confidence.LIKELY, Grade.CAUSE,
        )  # fmt: skip
    return None


def overfitting(inputs: DiagnosisInputs) -> Finding | None:
    """The validation loss rose while the training loss fell. Of `lambdaloss` nothing is said: it is no likelihood, so
    the validation loss may rise while the ranking gets better."""
    trial, last = inputs.winner, inputs.winner.whole_epochs[-1]
    best = trial.best("val_loss") if all("val_loss" in epoch for epoch in trial.reports) else None
    if (
        best is None
        or is_no_likelihood(trial)
        or "train_loss" not in last
        or last["val_loss"] < best["val_loss"] * (1 + most_by_seed(inputs)) + WORSE
    ):
        return None
    if last["train_loss"] > best["train_loss"] - WORSE * (best["train_loss"] if other_loss(trial) else 1):
        return None
    return Finding(
        "overfitting", f"after epoch {best['epoch']:g} the validation loss of trial {trial.number} rose from "
        f"{best['val_loss']:.2f} to {last['val_loss']:.2f} nats, while the training loss fell to "
        f"{last['train_loss']:.2f}{what_is_trained(trial)}",
        "the adapter learns the training users by heart",
        "fewer epochs, more users or examples, lora_dropout, a lower rank",
        Confidence.SURE, limit_or_cause(inputs),
    )  # fmt: skip


def still_learning(inputs: DiagnosisInputs) -> Finding | None:
    """The validation loss was still falling in the last epoch."""
    trial, losses = inputs.winner, inputs.losses("val_loss")
    if len(losses) < 2 or trial.status is not TrialStatus.COMPLETED or inputs.best is not trial.reports[-1]:
        return None
    falls = [(previous - current) / previous for previous, current in pairwise(losses)]
    if min(falls[-2:]) < max(STILL_LEARNING, most_by_seed(inputs)):  # a single fall may be luck
        return None
    before, last = trial.whole_epochs[-2:]
    if inputs.metric in METRIC_NAMES and last[inputs.metric] < before[inputs.metric] + MATTERS:
        return None
    return Finding(
        "still learning at its end",
        f"in epoch {len(losses)}, its last, the validation loss of trial {trial.number} fell from {losses[-2]:.2f} to "
        f"{losses[-1]:.2f} nats, and {pretty_metric(inputs.metric)} was the best yet, {inputs.best[inputs.metric]:.3f}",
        "the training ended before it had learned what it could (underfitting)",
        "more epochs, or more examples_per_user",
        Confidence.LIKELY, limit_or_cause(inputs),
    )  # fmt: skip
