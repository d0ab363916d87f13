"""Figures and thresholds that several checks ask for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

from reranker.config import LETTERS
from reranker.metrics import Picks
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Grade
from results.leaderboard import PRETTY
from results.statistics.verdict_text import p_value
from results.statistics.what_was_learned import ZERO_SHOT
from results.study.study_folder import StoredTrial

FEW_STEPS = 60  # of the optimiser; a LoRA adapter begins at nothing, and each step moves a weight by the rate at most
PLATEAU = 300  # steps that a base may stay at guessing until it names labels (a toy needed 275: docs/LOG.md)
AT_GUESSING = 0.08  # nats between a loss and that of guessing, below which nothing is left of what the base knew
SAME = 0.9  # share of lists in which a training that changed nothing leaves the first place as it was
ONE_LABEL = 0.8  # share of first places of one label, beyond which two models that prefer it agree anyway
FLAT = 0.02  # of a loss, an epoch, as a part of it: below this nothing was learned
BOLD = 1e-2  # a learning rate beyond what adapters are known to bear
HEEDLESS = 0.002  # dependence of the answers on the lists (`DiagnosisInputs.list_dependence`), below which a model is out of order
HARDLY = 0.015  # likewise, below which it may be; where labels are random it has still learned to heed little
EASIER = 0.5  # nats by which training may be easier than validation in an epoch whose examples are all new
BELOW_GUESSING = 0.3  # nats below the loss of guessing, where something has surely been learned
WORSE = 0.1  # nats by which a loss changes when what is learned no longer holds for others
STILL_LEARNING = 0.05  # of the validation loss, as a part of it: epochs that brought more should not be the last
LEANING = 0.15  # share of first places that would have to move for no label to be preferred
MATTERS = 0.02  # of the metric: a smaller gain is none
VAGUE = 0.05  # half an interval of a difference, beyond which it says nothing
SHUFFLES = 2000
LOST, CANNOT = "knew how to name labels and lost it", "cannot name labels yet"
RULELESS = "names labels but does not know the rule"


def steps_of(trial: StoredTrial) -> float:
    """Optimiser steps of a trial; infinite where they are not known."""
    return float(trial.epochs[-1].get("applied/optimizer_steps", math.inf))


def limit_or_cause(e: DiagnosisInputs) -> Grade:
    """What holds a training down is a cause where the result is that of guessing."""
    return Grade.CAUSE if e.at_chance else Grade.LIMIT


def gain_of(e: DiagnosisInputs, trial: StoredTrial) -> float:
    """A trial's best figure of the study's metric, the higher the better."""
    figures = trial.best(e.metric)
    assert figures is not None
    return float(figures[e.metric]) * (-1 if e.metric.endswith("_loss") else 1)


def simple_baselines(e: DiagnosisInputs) -> dict[str, dict[str, Any]]:
    """The baselines that need no language model."""
    return {name: row for name, row in e.references.items() if not name.startswith(ZERO_SHOT)}


def first_epoch(e: DiagnosisInputs) -> dict[str, Any] | None:
    """The best trial's first epoch, if its two losses are known and measure the same."""
    first = e.winner.epochs[0]
    return (
        first
        if not other_loss(e.winner) and first.get("epoch") == 1 and {"train_loss", "val_loss"} <= first.keys()
        else None
    )


def most_by_seed(e: DiagnosisInputs) -> float:
    """By what part of it a validation loss may move from epoch to epoch by luck: two standard errors, where the losses of
    single lists change by half of what they are."""
    return 1 / math.sqrt(e.users)


def much_easier(e: DiagnosisInputs, epoch: dict[str, Any]) -> bool:
    """Whether the training loss of an epoch is so far below the validation loss that no luck explains it.

    Losses of single lists are taken to spread as widely as their mean is high.
    """
    examples = epoch.get("applied/examples", e.users) / epoch["epoch"]
    noise = math.hypot(epoch["train_loss"] / math.sqrt(examples), epoch["val_loss"] / math.sqrt(e.users))
    return bool(epoch["val_loss"] > epoch["train_loss"] + EASIER + 2 * noise)


def new_examples(first: dict[str, Any]) -> str:
    return (
        f"in epoch 1, whose examples are all new to the model, the training loss was {first['train_loss']:.2f} nats; on the "
        f"validation lists it was {first['val_loss']:.2f} after it"
    )


def other_lists(e: DiagnosisInputs) -> str:
    """In what the scored lists are known to differ from those that are trained on."""
    mix = e.winner.values.get("negatives") or {}
    if e.data.get("candidate_mode") == "retrieval" and mix.get("retriever", 0) < 1:
        return f"the scored lists come from a retriever, {mix.get('retriever', 0):.0%} of the training negatives do"
    scored = e.data.get("evaluation_negatives", "uniform")
    if scored != "uniform" and mix.get(scored, 0) < 1:
        return f"the scored lists have negatives by {scored}, as have {mix.get(scored, 0):.0%} of those trained on"
    return ""


def other_loss(trial: StoredTrial) -> bool:
    """Whether its training loss is of all the answer's tokens, or of titles to be found as well.

    It says nothing then beside the validation loss.
    """
    return trial.values.get("objective") == "token_ce" or bool(trial.values.get("skill_mix"))


def is_bold(trial: StoredTrial) -> bool:
    return bool(trial.values.get("learning_rate", 0.0) > BOLD)


def label_at(e: DiagnosisInputs, place: int) -> str:
    return LETTERS[place] if e.winner.values.get("label_style") == "letters" else f"{place + 1}"


def preferred_label(e: DiagnosisInputs, picks: Picks) -> tuple[str, float, float]:
    """The label that stands first more often than it is right, and the shares of lists in which it does and is."""
    held = picks.target >= 0
    first, right = (np.bincount(x[held], minlength=e.candidates) / held.sum() for x in (picks.first, picks.target))
    place = int((first - right).argmax())
    return label_at(e, place), float(first[place]), float(right[place])


def unmoved(e: DiagnosisInputs) -> bool:
    """Whether the answers are the untrained model's; where one label is nearly all of them, the loss must be too."""
    if e.kept_first is None or e.kept_first < SAME:
        return False
    before, after = e.untrained.get("val_loss"), e.best.get("val_loss")
    one = e.picks is not None and bool(np.bincount(e.picks.first).max() >= ONE_LABEL * len(e.picks.first))
    if not one or before is None or after is None:
        return True
    return bool(abs(after - before) < STILL_LEARNING * before)


def collapsed(e: DiagnosisInputs) -> bool:
    """Validation at the loss of guessing, and training not below it."""
    last = e.winner.epochs[-1]
    loss = last.get("val_loss", last.get("train_loss", 0.0))
    enough = FEW_STEPS <= steps_of(e.winner) < math.inf
    return enough and abs(loss - e.guessing) < 0.15 and last.get("train_loss", loss) > e.guessing - AT_GUESSING


def beats_all(e: DiagnosisInputs) -> bool:
    against = e.comparison.against.values() if e.comparison else ()
    return bool(against) and all(difference.proven and difference.mean > 0 for difference in against)


def not_beaten(e: DiagnosisInputs) -> list[str]:
    """The baselines without a language model that the best trial is not proven better than, where that can be told."""
    if e.comparison is None:  # from figures alone
        return [name for name, row in simple_baselines(e).items() if row.get(e.metric, -math.inf) >= e.best[e.metric]]
    against = {name: d for name, d in e.comparison.against.items() if not name.startswith(ZERO_SHOT)}
    return [n for n, d in against.items() if not (d.proven and d.mean > 0) and not is_undecided(e, n)]


def told_beaten(e: DiagnosisInputs, beaten: list[str]) -> str:
    """How far the best trial is from these baselines."""
    if e.comparison is None:
        told = "; ".join(f"{name} has {e.references[name][e.metric]:.3f}" for name in beaten)
        return f"the best trial has {pretty_metric(e.metric)} {e.best[e.metric]:.3f}; {told}"
    metric = e.comparison.metric
    return f"the best trial has {pretty_metric(metric)} {e.best[metric]:.3f}; {how_far_it_leads(e, beaten)}"


def is_poor(e: DiagnosisInputs) -> bool:
    """Whether the ranking leaves something to be explained."""
    return e.at_chance or bool(not_beaten(e))


def is_undecided(e: DiagnosisInputs, name: str) -> bool:
    """Whether a baseline may as well be clearly better as clearly worse than the best trial, or just ahead by luck."""
    assert e.comparison is not None
    difference = e.comparison.against[name]
    wide = (difference.high - difference.low) / 2 > VAGUE
    return not difference.proven and difference.high > MATTERS and (difference.mean > MATTERS or wide)


def how_far_it_leads(e: DiagnosisInputs, names: list[str]) -> str:
    """By how much the best trial is ahead of baselines, with 95% intervals."""
    assert e.comparison is not None
    told = []
    for name in names:
        found = e.comparison.against[name]
        told.append(f"over {name} is {found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}, {p_value(found.p)})")
    return f"the lead of the best trial in {pretty_metric(e.comparison.metric)} {', '.join(told)}"


def leaning(picks: Picks, candidates: int) -> tuple[float, float]:
    """By how much the labels put first are other ones than the right ones: (share of lists beyond chance, p).

    The share is the total variation distance of the two histograms, less what it is on average where first and right
    label of each list are swapped by a coin: then no label is preferred, and the ranker is right as often as before.
    """
    held = picks.target >= 0
    first, right = picks.first[held], picks.target[held]
    rows = np.flatnonzero(first != right)
    if not len(rows):
        return 0.0, 1.0
    moves = np.zeros((len(rows), candidates))
    moves[np.arange(len(rows)), first[rows]] += 1
    moves[np.arange(len(rows)), right[rows]] -= 1
    seen = np.abs(moves.sum(axis=0)).sum() / 2
    signs = np.random.default_rng(0).integers(0, 2, (SHUFFLES, len(rows))) * 2.0 - 1.0
    drawn = np.abs(signs @ moves).sum(axis=1) / 2
    return float(seen - drawn.mean()) / len(first), float(((drawn >= seen).sum() + 1) / (SHUFFLES + 1))


def most_by_chance(e: DiagnosisInputs, level: float) -> float:
    """What the best of all epochs would have at most, in 995 studies of 1000, were this the expected Recall@1."""
    z = stats.norm.ppf(1 - 0.005 / sum(len(trial.epochs) for trial in e.trials))
    return level + float(z) * math.sqrt(level * (1 - level) / e.users)


def pretty_metric(metric: str) -> str:
    return PRETTY.get(metric, metric)
