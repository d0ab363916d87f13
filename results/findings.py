"""What is known of a study → one finding or none for each thing that can be wrong with it: a small function a thing.

The functions stand in the order of their grades; `results.diagnose` says what a grade is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats

from reranker.config import LETTERS
from reranker.metrics import METRIC_NAMES, Picks
from results.compare import p_value
from results.evidence import Evidence
from results.leaderboard import PRETTY
from results.learned import HALF, ZERO_SHOT
from results.study_folder import StoredTrial, TrialStatus

_FEW_STEPS = 60  # of the optimiser; a LoRA adapter begins at nothing, and each step moves a weight by the rate at most
_PLATEAU = (
    300  # steps that a base may stay at the loss of guessing for, until it names labels (a toy needed 275: docs/LOG.md)
)
_AT_GUESSING = 0.08  # nats between a loss and that of guessing, below which nothing is left of what the base knew
_SAME = 0.9  # share of lists in which a training that changed nothing leaves the first place as it was
_ONE = 0.8  # share of first places of one label, beyond which two models that prefer it agree anyway
_FLAT = 0.02  # of a loss, an epoch, as a part of it: below this nothing was learned
_BOLD = 1e-2  # a learning rate beyond what adapters are known to bear
_HEEDLESS = 0.002  # dependence of the answers on the lists (`Evidence.heed`), below which a model is out of order
_HARDLY = 0.015  # likewise, below which it may be; where labels are random it has still learned to heed little
_EASIER = 0.5  # nats by which training may be easier than validation in an epoch whose examples are all new
_BELOW = 0.3  # nats below the loss of guessing, where something has surely been learned
_WORSE = 0.1  # nats by which a loss changes when what is learned no longer holds for others
_STILL = 0.05  # of the validation loss, as a part of it: last epochs that brought more should not have been the last
_LEANING = 0.15  # share of first places that would have to move for no label to be preferred
_MATTERS = 0.02  # of the metric: a smaller gain is none
_VAGUE = 0.05  # half an interval of a difference, beyond which it says nothing
_SHUFFLES = 2000
_LOST, _CANNOT = "knew how to name labels and lost it", "cannot name labels yet"
_RULELESS = "names labels but does not know the rule"


class Grade(IntEnum):
    """The order in which to act; see `results.diagnose`."""

    SYMPTOM = 1
    CAUSE = 2
    LIMIT = 3
    DOUBT = 4
    ASIDE = 5


class Confidence(StrEnum):
    """From the surest on."""

    SURE = "sure"
    LIKELY = "likely"
    POSSIBLE = "possible"


@dataclass(frozen=True)
class Finding:
    """One reason, in words for whoever has to act on it.

    Attributes:
        name: a few words that tell it from other findings.
        seen: the figures.
        means: what they mean.
        next_step: what to change.
    """

    name: str
    seen: str
    means: str
    next_step: str
    confidence: Confidence
    grade: Grade

    @property
    def order(self) -> tuple[int, int]:
        """Its place among the findings of a study: by grade, then the surest first."""
        return self.grade, list(Confidence).index(self.confidence)

    def as_dict(self) -> dict[str, str]:
        return {**asdict(self), "confidence": self.confidence.value, "grade": self.grade.name.lower()}


# The symptom


def at_chance(e: Evidence) -> Finding | None:
    if not e.at_chance:
        return None
    metric = "recall_at_1" if "recall_at_1" in e.best else "ndcg_at_10"
    level, half = e.chance[metric], 1.96 * e.error_of_chance(metric)
    seen = f"{_pretty(metric)} {e.best[metric]:.4f}; guessing gives {level:.4f} ± {half:.4f} with {e.users} users"
    if (loss := e.best.get("val_loss", e.best.get("train_loss"))) is not None:
        side = "not below" if loss >= e.guessing else "hardly below" if loss > e.guessing - _BELOW else "below"
        seen += f"; the loss, {loss:.2f}, is {side} that of guessing, ln {e.candidates} = {e.guessing:.2f}"
    if metric in e.untrained and not e.is_chance(e.untrained):
        seen += f"; before any training the model has {_pretty(metric)} {e.untrained[metric]:.4f}"
    return Finding(
        "at chance", seen, "the model ranks as if it guessed: nothing has been learned that helps on new users",
        "mend what is named below; if nothing is, read ten prompts with their answers, as tokens. Comparing configurations is "
        "pointless until one is above chance",
        Confidence.SURE, Grade.SYMPTOM,
    )  # fmt: skip


# Causes: the figures don't mean what they seem to


def leaked_target(e: Evidence) -> Finding | None:
    """Too good to be true: better than who knows the rule of the data, or next to no error at all."""
    reached, loss = e.best.get("recall_at_1", 0.0), e.best.get("val_loss", 0.0)
    simple = max((row["recall_at_1"] for row in _simple(e).values() if "recall_at_1" in row), default=0.0)
    if e.best_reachable is not None and reached > _most_by_luck(e, e.best_reachable):
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


def leaked_in_training(e: Evidence) -> Finding | None:
    first = _first_epoch(e)
    if first is None or first["train_loss"] > 0.35 * e.guessing or _other_lists(e):
        return None
    if first["val_loss"] < first["train_loss"] + 0.5 * e.guessing or not _much_easier(e, first):
        return None
    return Finding(
        "leaked in training", f"{_new_examples(first)}; guessing has {e.guessing:.2f}",
        "the training prompts give their answers away, and the model learns to find them there instead of ranking",
        "print some training prompts with their answers: is the target in the history, or always at the same label? Are "
        "they written as the validation prompts are?", Confidence.SURE, Grade.CAUSE,
    )  # fmt: skip


def template_mismatch(e: Evidence) -> Finding | None:
    """What is scored never came along with what was trained, from the first epochs on, when nothing is known by heart yet."""
    first = _first_epoch(e)
    if first is None or _other_lists(e):
        return None
    if _much_easier(e, first):  # both are losses on new examples
        seen = _new_examples(first)
    else:
        early = [epoch for epoch in e.winner.epochs[:3] if _much_easier(e, epoch)]
        if not early or not e.at_chance or early[0]["train_loss"] > e.guessing - _BELOW:
            return None
        seen = (
            f"in epoch {early[0]['epoch']} the training loss fell to {early[0]['train_loss']:.2f} nats, below that of guessing "
            f"({e.guessing:.2f}), while the validation loss was {early[0]['val_loss']:.2f} and the ranking that of guessing"
        )
    mass = e.losses("label_mass")
    if mass and mass[-1] < 0.5:
        seen += f"; there the list's labels have {mass[-1]:.0%} of the probability together"
    return Finding(
        "template mismatch", seen,
        "what is scored is not what was trained: another template, other labels, or another kind of lists",
        "print a training prompt and a validation prompt of one user, in tokens, and compare them",
        Confidence.LIKELY, Grade.CAUSE,
    )  # fmt: skip


def easier_lists(e: Evidence) -> Finding | None:
    first, others = _first_epoch(e), _other_lists(e)
    if first is None or not others or not _much_easier(e, first):
        return None
    return Finding(
        "training lists are easier", f"{_new_examples(first)}; {others}",
        "the model learns to leave out candidates that it is never asked about",
        "draw training negatives as hard as those of the scored lists (`negatives`)", Confidence.LIKELY, Grade.LIMIT,
    )  # fmt: skip


def not_applied(e: Evidence) -> Finding | None:
    wanted, applied = e.winner.values.get("learning_rate"), e.winner.epochs[-1].get("applied/learning_rate")
    if wanted is None or applied is None or math.isclose(applied, wanted, rel_tol=0.02):
        return None
    return Finding(
        "applied is not configured",
        f"trial {e.winner.number} asked for a learning rate of {wanted:g}; the optimiser never held more than {applied:g}",
        "what was compared is not what the table says", "shorten warmup_epochs, or train longer",
        Confidence.SURE, Grade.CAUSE,
    )  # fmt: skip


# Causes: labels, which must be learned before the data's rule


def lost_labels(e: Evidence) -> Finding | None:
    """Known untrained, after the lesson or at an earlier report, and forgotten by a training with nothing to show."""
    naming = e.naming
    if naming is None or not _poor(e):
        return None
    now = naming.reports[-1] if e.at_chance else naming.best
    peak = naming.fall(now)
    if peak is None:
        return None
    rate = e.winner.values.get("learning_rate")
    return Finding(
        _LOST, f"asked for a candidate by its title, the best trial's model named the label of "
        f"{peak.found:.0%} {peak.when} and of {now.found:.0%} {now.when}"
        + (f" (learning_rate {rate:.1e})" if rate else ""),
        "the steps are so large that they destroy what a ranking is built on",
        "lower learning_rate by three to ten, lengthen warmup_epochs, or keep such questions in the training "
        "(`skill_mix: 0.1`); if it is lost all the same, read whether the training answers fit their lists",
        Confidence.SURE if e.at_chance and now.high < HALF else Confidence.LIKELY, _limit(e),
    )  # fmt: skip


def cannot_name_labels(e: Evidence) -> Finding | None:
    """In the best trial and in most others. A bold rate is told by itself: it would destroy any skill."""
    naming, known = e.naming, [naming for trial in e.trials if (naming := e.naming_of(trial))]
    failing = [naming for naming in known if naming.fails]
    if naming is None or not naming.fails or 2 * len(failing) <= len(known) or not _poor(e):
        return None
    if lost_labels(e) or (_bold(e.winner) and rate_too_high(e)):
        return None
    shares = [s for s in (naming.untrained, naming.taught, naming.reports[0]) if s and s != naming.best]
    seen = f"asked for a candidate by its title, the best trial's model names the label of {naming.best.found:.0%} "
    seen += f"{naming.best.when} (guessing: {naming.guessing:.0%})"
    seen += "".join(f", {share.found:.0%} {share.when}" for share in shares)
    seen += f"; {len(failing)} of {len(known)} trials name less than half" if len(known) > 1 else ""
    return Finding(
        _CANNOT, seen,
        "a model must learn to name a candidate's label before it can learn which one comes next; until then, neither "
        "the data nor the other knobs are put to the test",
        f"{_more_lessons(e.winner)}; else more training steps, or another label_position or prompt_order",
        Confidence.SURE if naming.guesses and e.at_chance else Confidence.LIKELY, Grade.CAUSE,
    )  # fmt: skip


def _more_lessons(trial: StoredTrial) -> str:
    """What to change so that the base is taught to name labels, or taught more."""
    taken = trial.epochs[-1].get("applied/skill_steps")
    if taken is None:
        return "`skill_steps: auto`, which teaches that first, once for all trials"
    return f"more skill_steps than the {taken:.0f} that were taken"


def names_without_rule(e: Evidence) -> Finding | None:
    naming, beaten = e.naming, _not_beaten(e)
    if naming is None or not naming.knows or not (e.at_chance or beaten) or lost_labels(e):
        return None
    told = naming.told()
    seen = f"asked for a candidate by its title, the best trial's model names the label of {naming.best.found:.0%}"
    seen += (f" ({told})" if told else "") + "; "
    seen += "it ranks as if it guessed" if e.at_chance else _told_beaten(e, beaten)
    return Finding(
        _RULELESS, seen,
        "the form of the task is learned; what is missing is which candidate comes next",
        "more examples (`examples_per_user: null` takes every prefix), more epochs, and rates by three up and down"
        + ("" if e.at_chance else "; a larger base or longer histories; else use the baseline"),
        Confidence.LIKELY, _limit(e),
    )  # fmt: skip


# Causes: the training cannot work


def too_few_steps(e: Evidence) -> Finding | None:
    most = max(trial.epochs[-1].get("applied/optimizer_steps", math.inf) for trial in e.trials)
    if _beats_all(e) or most >= _PLATEAU:
        return None
    seen = f"the longest training took {most:.0f} optimiser steps"
    if most >= _FEW_STEPS:
        signs = _still_at_its_start(e)
        if not signs:
            return None
        seen += f"; {'; '.join(signs)}"
    return Finding(
        "too few steps", seen,
        "an adapter begins at zero; so few steps cannot move it far, whatever the other knobs are"
        if most < _FEW_STEPS else "a base that cannot name labels yet stays at the loss of guessing for its first "
        "hundreds of steps, and prefers some label",
        "more examples_per_user (null: every prefix), more epochs, or a smaller effective_batch, to some hundred steps"
        + ("" if most < _FEW_STEPS or "applied/skill_steps" in e.best else "; `skill_steps: auto` saves most of them"),
        Confidence.SURE if most < _FEW_STEPS else Confidence.LIKELY, Grade.CAUSE,
    )  # fmt: skip


def _still_at_its_start(e: Evidence) -> list[str]:
    """By what a training that guesses shows that it has hardly begun, not that it went wrong; or nothing."""
    which = "validation" if _other_loss(e.winner) else "training"
    losses = e.losses("val_loss" if _other_loss(e.winner) else "train_loss")
    if not e.at_chance or not losses or min(losses) < e.guessing - _AT_GUESSING or losses[0] - losses[-1] > _WORSE:
        return []
    destroyed, confidence = _destroyed(e)
    if _bold(e.winner) or _unmoved(e) or (destroyed and confidence is not Confidence.POSSIBLE):
        return []
    if e.naming is not None and e.naming.knows:
        return []
    signs, mass = [], e.losses("label_mass")
    if e.picks is not None and e.data.get("candidate_order") != "retriever":
        moved, p = leaning(e.picks, e.candidates)
        if moved >= 2 * _LEANING and p <= 0.001:
            label, share, _ = _preferred(e, e.picks)
            signs.append(f"label {label} stands first in {share:.0%} of the lists")
    began = e.untrained.get("label_mass", mass[0] if len(mass) > 1 else None)
    if mass and mass[-1] < min(HALF, (1 if began is None else began) + _WORSE):
        told = f"the labels have {mass[-1]:.0%} of the probability together"
        signs.append(told if began is None else f"{told}, and had {began:.0%} at the start")
    loss = (
        f"the {which} loss is {losses[-1]:.2f} nats, not below that of guessing, ln {e.candidates} = {e.guessing:.2f}"
    )
    return [loss, *signs] if signs else []


def labels_do_not_fit(e: Evidence) -> Finding | None:
    """Long enough at a rate that leaves the model able to answer, and yet it learned that all labels are alike."""
    long = [trial for trial in e.trials if _FEW_STEPS <= _steps(trial) < math.inf and not _other_loss(trial)]
    trained = [trial for trial in long if "train_loss" in trial.epochs[-1]]
    losses = [trial.epochs[-1]["train_loss"] for trial in trained]
    if not e.at_chance or not losses or abs(min(losses) - e.guessing) > _AT_GUESSING or _unmoved(e):
        return None
    there = [t for t, loss in zip(trained, losses, strict=True) if loss < e.guessing + _AT_GUESSING]
    rates = sorted(trial.values["learning_rate"] for trial in there if "learning_rate" in trial.values)
    varied = len(rates) > 1 and rates[-1] >= 3 * rates[0]
    known = {name: row for name, row in _simple(e).items() if "recall_at_1" in row and not e.is_chance(row)}
    seen = f"after {_steps(there[0]):.0f} steps the training loss is {min(losses):.3f} nats, that of guessing"
    seen += f" (ln {e.candidates} = {e.guessing:.3f})"
    seen += f", at rates from {rates[0]:.1e} to {rates[-1]:.1e} alike" if varied else ""
    means = "the answers that are trained don't go with their lists: shuffled, shifted by a row, or of another table"
    if known:
        name, row = max(known.items(), key=lambda item: item[1]["recall_at_1"])
        seen += f"; {name} has Recall@1 {row['recall_at_1']:.3f} on the same users, so there is something to learn"
    else:
        means += "; or the data hold nothing that tells about the next item"
    doubtful = e.picks is None or (e.one_answer and e.heed < _HARDLY) or all(_bold(trial) for trial in there)
    confidence = Confidence.SURE if known and varied else Confidence.POSSIBLE if doubtful else Confidence.LIKELY
    return Finding(
        "labels don't fit their lists", seen, means,
        "take ten training examples and read whether the candidate at the target's label is what the user took next",
        confidence, Grade.CAUSE,
    )  # fmt: skip


def rate_too_high(e: Evidence) -> Finding | None:
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


def _destroyed(e: Evidence) -> tuple[str, Confidence]:
    """By what the best trial shows that its model is out of order, or nothing; and how sure that is."""
    losses, bold = e.losses("train_loss"), _bold(e.winner)
    if e.picks is not None and e.one_answer and e.heed < _HARDLY and _steps(e.winner) >= _FEW_STEPS:
        label, shares = _label(e, int(e.picks.first[0])), e.picks.probability
        seen = f"the best trial puts label {label} first in every list, whatever stands in it, with a probability of "
        seen += f"{shares.mean():.4f} ± {shares.std():.4f}"
        if e.heed < _HEEDLESS:
            return seen, Confidence.SURE
        return seen, Confidence.LIKELY if bold else Confidence.POSSIBLE
    if len(losses) > 1 and losses[-1] > min(losses[:-1]) + max(0.3, 0.05 * min(losses[:-1])) and not _unmoved(e):
        return f"the training loss rose from {min(losses[:-1]):.2f} to {losses[-1]:.2f} nats", Confidence.LIKELY
    if e.at_chance and _collapsed(e) and (e.picks is None or bold):
        seen = f"after {_steps(e.winner):.0f} steps the losses are those of guessing, {e.guessing:.2f} nats"
        return seen, Confidence.LIKELY if bold else Confidence.POSSIBLE
    return "", Confidence.POSSIBLE


def rate_too_low(e: Evidence) -> Finding | None:
    losses = e.losses("train_loss")
    if _steps(e.winner) < _FEW_STEPS or math.isinf(_steps(e.winner)) or not losses:
        return None
    if e.kept_first is not None:
        if not _unmoved(e):
            return None
        seen = f"after {_steps(e.winner):.0f} steps {e.kept_first:.0%} of the lists have the first place that the untrained "
        seen += f"model gives; its validation loss was {e.untrained.get('val_loss', math.nan):.2f} nats and is "
        seen += f"{e.best.get('val_loss', math.nan):.2f}"
    else:
        fall = (losses[0] - losses[-1]) / losses[0] / max(1, len(losses) - 1)
        if len(losses) < 2 or abs(fall) > _FLAT or losses[-1] < e.guessing + _AT_GUESSING:
            return None
        seen = f"the training loss went from {losses[0]:.3f} to {losses[-1]:.3f} nats in {len(losses)} epochs and "
        seen += f"{_steps(e.winner):.0f} steps; guessing has {e.guessing:.2f}"
    rate = e.winner.values.get("learning_rate")
    return Finding(
        "rate too low", seen + (f" (learning_rate {rate:.1e})" if rate else ""),
        "the steps are too small to change the answers", "raise learning_rate by ten, and again until the loss falls",
        Confidence.LIKELY, Grade.CAUSE,
    )  # fmt: skip


def no_better_than_untrained(e: Evidence) -> Finding | None:
    if overfitting(e):  # which says why
        return None
    for name, difference in (e.comparison.against if e.comparison else {}).items():
        if not name.startswith(ZERO_SHOT) or (difference.proven and difference.mean > 0) or _undecided(e, name):
            continue
        verb = "worse than" if difference.proven else "no better than"
        losses = e.losses("val_loss")
        falling = len(losses) > 1 and losses[-1] < (1 - _STILL) * losses[-2]
        return Finding(
            "no better than untrained", f"the best trial is {verb} {name}: {_leads(e, [name])}",
            "the training has not brought anything" + (" yet: its loss is still falling" if falling else ""),
            "more epochs, or a higher learning_rate" if falling else "other rates, by three up and down, and more examples",
            Confidence.SURE if difference.proven else Confidence.LIKELY, Grade.CAUSE,
        )  # fmt: skip
    return None


def labels_are_improbable(e: Evidence) -> Finding | None:
    """Only where the objective is to name the label among all tokens; `label_ce` compares the labels alone."""
    mass = e.best.get("label_mass")
    if mass is None or mass >= 0.5 or e.winner.values.get("objective") != "token_ce":
        return None
    return Finding(
        "labels are improbable", f"the list's labels have {mass:.0%} of the probability together, among all tokens",
        "the model would mostly say something that is no label: it was trained on other prompts than it is scored on, or "
        "hardly at all", "compare a training prompt with a validation prompt, in tokens, up to the label; or train longer",
        Confidence.LIKELY, Grade.CAUSE,
    )  # fmt: skip


def label_prior(e: Evidence) -> Finding | None:
    if e.picks is None or e.data.get("candidate_order") == "retriever":  # there the place does tell about the target
        return None
    if e.one_answer and e.heed < _HARDLY:  # nothing but a label is left: no leaning, but a model out of order
        return None
    moved, p = leaning(e.picks, e.candidates)
    if moved < _LEANING or p > 0.001:
        return None
    label, first, right = _preferred(e, e.picks)
    strong, losses = moved >= 2 * _LEANING, e.losses("val_loss" if _other_loss(e.winner) else "train_loss")
    empty = e.at_chance and bool(losses) and min(losses) > e.guessing - _AT_GUESSING
    return Finding(
        "label prior", f"label {label} stands first in {first:.0%} of the lists and is right in {right:.0%}; for no "
        f"label to be preferred, {moved:.0%} of the lists would need another first place (p ≤ 0.001)",
        "a part of the answer comes from the label, or its place, whatever candidate stands there"
        + ("; a model that has learned nothing yet prefers some label too" if empty else ""),
        "keep shuffle_candidates on, and see that training targets are spread over all labels; `permutations: 4` averages "
        "the preference away, at four times the cost of an answer",
        Confidence.POSSIBLE if empty else Confidence.SURE if strong else Confidence.LIKELY,
        Grade.CAUSE if strong else Grade.LIMIT,
    )  # fmt: skip


def history_is_cut(e: Evidence) -> Finding | None:
    due, dropped = (e.best.get(f"applied/history_{name}", 0) for name in ("due", "dropped"))
    cut, examples = e.best.get("applied/cut_prompts", 0), e.best.get("applied/examples", 0)
    if not examples or cut < 0.1 * examples:
        return None
    seen = f"{cut / examples:.0%} of the training prompts lost history or parts of titles to fit"
    if limit := e.winner.values.get("max_prompt_tokens"):
        seen += f" max_prompt_tokens = {limit}"
    if due:
        seen += f"; of {due / examples:.1f} items of history {(due - dropped) / examples:.1f} are left, on average"
    return Finding(
        "history is cut", seen, "the model is asked about less than was configured",
        "raise max_prompt_tokens; or lower max_title_tokens or candidates, which leaves more room for the history",
        Confidence.SURE, Grade.CAUSE if due and dropped >= 0.5 * due else Grade.LIMIT,
    )  # fmt: skip


# Limits


def overfitting(e: Evidence) -> Finding | None:
    trial, last = e.winner, e.winner.epochs[-1]
    first = trial.best("val_loss") if all("val_loss" in epoch for epoch in trial.epochs) else None
    if first is None or "train_loss" not in last or last["val_loss"] < first["val_loss"] * (1 + _luck(e)) + _WORSE:
        return None
    if last["train_loss"] > first["train_loss"] - _WORSE:
        return None
    return Finding(
        "overfitting", f"after epoch {first['epoch']} the validation loss of trial {trial.number} rose from "
        f"{first['val_loss']:.2f} to {last['val_loss']:.2f} nats, while the training loss fell to {last['train_loss']:.2f}",
        "the adapter learns the training users by heart", "fewer epochs, more users or examples, lora_dropout, a lower rank",
        Confidence.SURE, _limit(e),
    )  # fmt: skip


def still_learning(e: Evidence) -> Finding | None:
    trial, losses = e.winner, e.losses("val_loss")
    if len(losses) < 2 or trial.status is not TrialStatus.COMPLETED or e.best is not trial.epochs[-1]:
        return None
    falls = [(before - after) / before for before, after in pairwise(losses)]
    if min(falls[-2:]) < max(_STILL, _luck(e)):  # a single one may be luck
        return None
    if e.metric in METRIC_NAMES and trial.epochs[-1][e.metric] < trial.epochs[-2][e.metric] + _MATTERS:
        return None
    return Finding(
        "still learning at its end", f"in epoch {len(losses)}, its last, the validation loss of trial {trial.number} fell "
        f"from {losses[-2]:.2f} to {losses[-1]:.2f} nats, and {_pretty(e.metric)} was the best yet, {e.best[e.metric]:.3f}",
        "the training ended before it had learned what it could (underfitting)", "more epochs, or more examples_per_user",
        Confidence.LIKELY, _limit(e),
    )  # fmt: skip


def baseline_does_as_well(e: Evidence) -> Finding | None:
    beaten = _not_beaten(e)
    if not beaten or names_without_rule(e):  # which says more
        return None
    worse = e.comparison is not None and any(e.comparison.against[name].proven for name in beaten)
    return Finding(
        "a simple baseline does as well", _told_beaten(e, beaten),
        "the language model adds nothing that counting does not know" + ("" if worse else ", as far as these users tell"),
        "more examples, a larger base, or longer histories; else use the baseline",
        Confidence.SURE if worse else Confidence.LIKELY, Grade.LIMIT,
    )  # fmt: skip


def retriever_ceiling(e: Evidence) -> Finding | None:
    score, metric = e.best[e.metric], e.metric
    if e.hit == 1 or metric not in METRIC_NAMES or 1 - e.hit < e.hit - score:
        return None
    within = e.best.get(f"retrieved/{metric}", score / e.hit if e.hit else 0.0)
    return Finding(
        "the retriever is the ceiling", f"{e.hit:.0%} of the lists hold their target, so no ranking has more than {e.hit:.3f} "
        f"{_pretty(metric)}; the best trial has {score:.3f}, and {within:.3f} on the lists that hold it",
        f"of what is missing to 1, {1 - e.hit:.3f} is lost before the model sees the list and {e.hit - score:.3f} by it",
        "a better retriever, or more candidates; tuning the model can win back the smaller part only",
        Confidence.SURE, _limit(e),
    )  # fmt: skip


def best_at_an_edge(e: Evidence) -> Finding | None:
    """All that can't be told from the best lie at the same end, others do not, and the way there goes uphill."""
    alike = [trial.number for trial in (e.comparison.alike if e.comparison else [])]
    found = {}
    for knob, searched in e.space.items():
        ends = {trial.number: searched.end_at(trial.values[knob]) for trial in e.trials}
        end = ends[e.winner.number]
        inside = [trial for trial in e.trials if ends[trial.number] != end]
        if not end or len(inside) < 2 or not alike or any(ends[number] != end for number in alike):
            continue
        values = [trial.values[knob] for trial in e.trials]
        scores = [_gain(e, trial) for trial in e.trials]
        uphill = stats.spearmanr(values, scores).statistic if len(set(values)) > 2 and len(set(scores)) > 1 else 0.0
        if uphill * (1 if end == "high" else -1) >= 0.5:
            found[knob] = (end, inside[0])
    if not found:
        return None
    told = [
        f"{knob} = {e.winner.values[knob]:g}, the {end} end of {e.space[knob].low:g} to {e.space[knob].high:g} "
        f"(best elsewhere: {other.values[knob]:g} with {abs(_gain(e, other)):.3f})"
        for knob, (end, other) in found.items()
    ]
    return Finding(
        "the best is at an end of its range", f"{_pretty(e.metric)} {e.best[e.metric]:.3f} at {'; '.join(told)}",
        "the trials get better towards that end, so better ones may lie beyond it", f"widen the range of {', '.join(found)}",
        Confidence.LIKELY if len(e.trials) >= 8 else Confidence.POSSIBLE, Grade.LIMIT,
    )  # fmt: skip


# Doubts


def too_few_users(e: Evidence) -> Finding | None:
    against = e.comparison.against if e.comparison else {}
    undecided = [name for name in against if _undecided(e, name)]
    if e.comparison is None or not undecided:
        return None
    return Finding(
        "too few users", f"{_leads(e, undecided)}; with {e.users} users this comparison has an 80% chance of proving a true "
        f"lead of {e.comparison.detectable:.3f}",
        "the difference may be as large as it looks or nothing at all: so few users can't tell",
        "score more users (evaluation_users: null takes all; min_user lets more in), and compare fewer trials",
        Confidence.SURE, Grade.DOUBT,
    )  # fmt: skip


def seed_luck(e: Evidence) -> Finding | None:
    """The two best configurations that were run with several seeds: is their distance more than that of seeds?

    By the t distribution with the degrees of freedom of the pooled spread, which are few."""
    scores = {name: runs for name, runs in (e.comparison.scores if e.comparison else {}).items() if runs}
    spread = e.comparison.seed_spread if e.comparison else None
    if spread is None or len(scores) < 2:
        return None
    (first, ours), (second, theirs), *_ = sorted(scores.items(), key=lambda item: -float(np.mean(item[1])))
    lead = float(np.mean(ours) - np.mean(theirs))
    assert e.comparison is not None
    reach = float(stats.t.ppf(0.975, e.comparison.seed_degrees))
    if lead >= reach * spread * math.sqrt(1 / len(ours) + 1 / len(theirs)):
        return None
    return Finding(
        "seed luck", f"{first} leads {second} by {lead:.4f} {_pretty(e.comparison.metric)}, averaged over {len(ours)} and "
        f"{len(theirs)} seeds; two seeds of one configuration are {math.sqrt(2) * spread:.4f} apart, typically",
        "with other seeds the second might as well stand first", "take the cheaper of the two, or run more seeds (--replicate)",
        Confidence.LIKELY, Grade.DOUBT,
    )  # fmt: skip


# Asides


def failures(e: Evidence) -> Finding | None:
    if not e.failed:
        return None
    causes = Counter(trial.cause for trial in e.failed).most_common(3)
    told = "; ".join(f"{cause or 'no cause is known'} ({count}×)" for cause, count in causes)
    return Finding(
        "trials failed", f"{len(e.failed)} of {len(e.failed) + len(e.trials)}: {told}",
        "these configurations were not compared", "see their train.log; `--resume STUDY --retry-failed` tries them again",
        Confidence.SURE, Grade.ASIDE if e.trials else Grade.CAUSE,
    )  # fmt: skip


CHECKS: tuple[Callable[[Evidence], Finding | None], ...] = (
    at_chance, leaked_target, lost_labels, cannot_name_labels, too_few_steps, rate_too_high, names_without_rule,
    label_prior, leaked_in_training, template_mismatch, not_applied, labels_do_not_fit, rate_too_low,
    no_better_than_untrained, labels_are_improbable, history_is_cut, overfitting, baseline_does_as_well,
    retriever_ceiling, easier_lists, still_learning, best_at_an_edge, too_few_users, seed_luck, failures,
)  # fmt: skip

_UNLEARNT = {"no better than untrained", "label prior", "labels are improbable"}
EXPLAINS = {  # what else brings these about; what is explained itself explains nothing
    "at chance": {"no better than untrained"},
    "leaked target": {"leaked in training", "template mismatch", "label prior"},
    "leaked in training": {
        "overfitting",
        "template mismatch",
        "rate too high",
        "no better than untrained",
        "labels are improbable",
        _RULELESS,
    },
    _LOST: {_CANNOT, _RULELESS, "rate too high", "still learning at its end", *_UNLEARNT},
    _CANNOT: {"labels don't fit their lists", "still learning at its end", *_UNLEARNT},
    _RULELESS: _UNLEARNT,
    "too few steps": {
        _RULELESS,
        "still learning at its end",
        "rate too low",
        "rate too high",
        "labels don't fit their lists",
        *_UNLEARNT,
    },
    "applied is not configured": {"rate too low", _RULELESS, *_UNLEARNT},
    "label prior": {"leaked in training", "template mismatch", "no better than untrained"},
    "template mismatch": {
        "overfitting",
        "rate too high",
        "no better than untrained",
        "labels are improbable",
        _RULELESS,
    },
    "rate too high": {
        "overfitting",
        "labels don't fit their lists",
        "still learning at its end",
        _RULELESS,
        *_UNLEARNT,
    },
    "labels don't fit their lists": {"overfitting", "still learning at its end", *_UNLEARNT},
    "rate too low": {"still learning at its end", _RULELESS, *_UNLEARNT},
    "overfitting": {_RULELESS},
}


# What several of them ask


def _steps(trial: StoredTrial) -> float:
    """Optimiser steps of a trial; infinite where they are not known."""
    return float(trial.epochs[-1].get("applied/optimizer_steps", math.inf))


def _limit(e: Evidence) -> Grade:
    """What holds a training down is a cause where the result is that of guessing."""
    return Grade.CAUSE if e.at_chance else Grade.LIMIT


def _gain(e: Evidence, trial: StoredTrial) -> float:
    """A trial's best figure of the study's metric, the higher the better."""
    figures = trial.best(e.metric)
    assert figures is not None
    return float(figures[e.metric]) * (-1 if e.metric.endswith("_loss") else 1)


def _simple(e: Evidence) -> dict[str, dict[str, Any]]:
    """The baselines that need no language model."""
    return {name: row for name, row in e.references.items() if not name.startswith(ZERO_SHOT)}


def _first_epoch(e: Evidence) -> dict[str, Any] | None:
    """The best trial's first epoch, if its two losses are known and measure the same."""
    first = e.winner.epochs[0]
    return (
        first
        if not _other_loss(e.winner) and first.get("epoch") == 1 and {"train_loss", "val_loss"} <= first.keys()
        else None
    )


def _luck(e: Evidence) -> float:
    """By what part of it a validation loss may move from epoch to epoch by luck: two standard errors, where the losses of
    single lists change by half of what they are."""
    return 1 / math.sqrt(e.users)


def _much_easier(e: Evidence, epoch: dict[str, Any]) -> bool:
    """Whether the training loss of an epoch is so far below the validation loss that no luck explains it.

    Losses of single lists are taken to spread as widely as their mean is high.
    """
    examples = epoch.get("applied/examples", e.users) / epoch["epoch"]
    noise = math.hypot(epoch["train_loss"] / math.sqrt(examples), epoch["val_loss"] / math.sqrt(e.users))
    return bool(epoch["val_loss"] > epoch["train_loss"] + _EASIER + 2 * noise)


def _new_examples(first: dict[str, Any]) -> str:
    return (
        f"in epoch 1, whose examples are all new to the model, the training loss was {first['train_loss']:.2f} nats; on the "
        f"validation lists it was {first['val_loss']:.2f} after it"
    )


def _other_lists(e: Evidence) -> str:
    """In what the scored lists are known to differ from those that are trained on."""
    mix = e.winner.values.get("negatives") or {}
    if e.data.get("candidate_mode") == "retrieval" and mix.get("retriever", 0) < 1:
        return f"the scored lists come from a retriever, {mix.get('retriever', 0):.0%} of the training negatives do"
    scored = e.data.get("evaluation_negatives", "uniform")
    if scored != "uniform" and mix.get(scored, 0) < 1:
        return f"the scored lists have negatives by {scored}, as have {mix.get(scored, 0):.0%} of those trained on"
    return ""


def _other_loss(trial: StoredTrial) -> bool:
    """Whether its training loss is of all the answer's tokens, or of titles to be found as well.

    It says nothing then beside the validation loss.
    """
    return trial.values.get("objective") == "token_ce" or bool(trial.values.get("skill_mix"))


def _bold(trial: StoredTrial) -> bool:
    return bool(trial.values.get("learning_rate", 0.0) > _BOLD)


def _label(e: Evidence, place: int) -> str:
    return LETTERS[place] if e.winner.values.get("label_style") == "letters" else f"{place + 1}"


def _preferred(e: Evidence, picks: Picks) -> tuple[str, float, float]:
    """The label that stands first more often than it is right, and the shares of lists in which it does and is."""
    held = picks.target >= 0
    first, right = (np.bincount(x[held], minlength=e.candidates) / held.sum() for x in (picks.first, picks.target))
    place = int((first - right).argmax())
    return _label(e, place), float(first[place]), float(right[place])


def _unmoved(e: Evidence) -> bool:
    """Whether the answers are the untrained model's; where one label is nearly all of them, the loss must be too."""
    if e.kept_first is None or e.kept_first < _SAME:
        return False
    before, after = e.untrained.get("val_loss"), e.best.get("val_loss")
    one = e.picks is not None and bool(np.bincount(e.picks.first).max() >= _ONE * len(e.picks.first))
    if not one or before is None or after is None:
        return True
    return bool(abs(after - before) < _STILL * before)


def _collapsed(e: Evidence) -> bool:
    """Validation at the loss of guessing, and training not below it."""
    last = e.winner.epochs[-1]
    loss = last.get("val_loss", last.get("train_loss", 0.0))
    enough = _FEW_STEPS <= _steps(e.winner) < math.inf
    return enough and abs(loss - e.guessing) < 0.15 and last.get("train_loss", loss) > e.guessing - _AT_GUESSING


def _beats_all(e: Evidence) -> bool:
    against = e.comparison.against.values() if e.comparison else ()
    return bool(against) and all(difference.proven and difference.mean > 0 for difference in against)


def _not_beaten(e: Evidence) -> list[str]:
    """The baselines without a language model that the best trial is not proven better than, where that can be told."""
    if e.comparison is None:  # from figures alone
        return [name for name, row in _simple(e).items() if row.get(e.metric, -math.inf) >= e.best[e.metric]]
    against = {name: d for name, d in e.comparison.against.items() if not name.startswith(ZERO_SHOT)}
    return [n for n, d in against.items() if not (d.proven and d.mean > 0) and not _undecided(e, n)]


def _told_beaten(e: Evidence, beaten: list[str]) -> str:
    """How far the best trial is from these baselines."""
    if e.comparison is None:
        told = "; ".join(f"{name} has {e.references[name][e.metric]:.3f}" for name in beaten)
        return f"the best trial has {_pretty(e.metric)} {e.best[e.metric]:.3f}; {told}"
    metric = e.comparison.metric
    return f"the best trial has {_pretty(metric)} {e.best[metric]:.3f}; {_leads(e, beaten)}"


def _poor(e: Evidence) -> bool:
    """Whether the ranking leaves something to be explained."""
    return e.at_chance or bool(_not_beaten(e))


def _undecided(e: Evidence, name: str) -> bool:
    """Whether a baseline may as well be clearly better as clearly worse than the best trial, or just ahead by luck."""
    assert e.comparison is not None
    difference = e.comparison.against[name]
    wide = (difference.high - difference.low) / 2 > _VAGUE
    return not difference.proven and difference.high > _MATTERS and (difference.mean > _MATTERS or wide)


def _leads(e: Evidence, names: list[str]) -> str:
    """By how much the best trial is ahead of baselines, with 95% intervals."""
    assert e.comparison is not None
    told = []
    for name in names:
        found = e.comparison.against[name]
        told.append(f"over {name} is {found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}, {p_value(found.p)})")
    return f"the lead of the best trial in {_pretty(e.comparison.metric)} {', '.join(told)}"


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
    signs = np.random.default_rng(0).integers(0, 2, (_SHUFFLES, len(rows))) * 2.0 - 1.0
    drawn = np.abs(signs @ moves).sum(axis=1) / 2
    return float(seen - drawn.mean()) / len(first), float(((drawn >= seen).sum() + 1) / (_SHUFFLES + 1))


def _most_by_luck(e: Evidence, level: float) -> float:
    """What the best of all epochs would have at most, in 995 studies of 1000, were this the expected Recall@1."""
    z = stats.norm.ppf(1 - 0.005 / sum(len(trial.epochs) for trial in e.trials))
    return level + float(z) * math.sqrt(level * (1 - level) / e.users)


def _pretty(metric: str) -> str:
    return PRETTY.get(metric, metric)
