"""Checks of label naming: whether the model can name labels, and whether it ranks well once it can."""

from __future__ import annotations

from results.diagnosis.checks.measures import (
    CANNOT,
    LOST,
    RULELESS,
    is_bold,
    is_poor,
    limit_or_cause,
    not_beaten,
    told_beaten,
)
from results.diagnosis.checks.optimisation import rate_too_high
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Confidence, Finding, Grade
from results.statistics.learning_summary import HALF
from results.study.stored_trial import StoredTrial


def lost_labels(inputs: DiagnosisInputs) -> Finding | None:
    """The model named labels untrained, after its lesson or at an earlier report, lost that, and ranks poorly."""
    naming = inputs.naming
    if naming is None or not is_poor(inputs):
        return None
    current = naming.reports[-1] if inputs.at_chance else naming.best
    peak = naming.fall(current)
    if peak is None:
        return None
    rate = inputs.winner.values.get("learning_rate")
    return Finding(
        LOST, f"asked for a candidate by its title, the best trial's model named the label of "
        f"{peak.found:.0%} {peak.when} and of {current.found:.0%} {current.when}"
        + (f" (learning_rate {rate:.1e})" if rate else ""),
        "the steps are so large that they destroy what a ranking is built on",
        "lower learning_rate by three to ten, lengthen warmup_epochs, or keep such questions in the training "
        "(`skill_mix: 0.1`); if it is lost all the same, read whether the training answers fit their lists",
        Confidence.SURE if inputs.at_chance and current.high < HALF else Confidence.LIKELY, limit_or_cause(inputs),
    )  # fmt: skip


def cannot_name_labels(inputs: DiagnosisInputs) -> Finding | None:
    """Neither the best trial nor most others name labels. A bold rate has its own finding."""
    naming, namings = inputs.naming, [naming for trial in inputs.trials if (naming := inputs.naming_of(trial))]
    failing = [naming for naming in namings if naming.fails]
    if naming is None or not naming.fails or 2 * len(failing) <= len(namings) or not is_poor(inputs):
        return None
    if lost_labels(inputs) or (is_bold(inputs.winner) and rate_too_high(inputs)):
        return None
    shares = [s for s in (naming.untrained, naming.taught, naming.reports[0]) if s and s != naming.best]
    seen = f"asked for a candidate by its title, the best trial's model names the label of {naming.best.found:.0%} "
    seen += f"{naming.best.when} (guessing: {naming.guessing:.0%})"
    seen += "".join(f", {share.found:.0%} {share.when}" for share in shares)
    seen += f"; {len(failing)} of {len(namings)} trials name less than half" if len(namings) > 1 else ""
    return Finding(
        CANNOT, seen,
        "a model must learn to name a candidate's label before it can learn which one comes next; until then, neither "
        "the data nor the other knobs are put to the test",
        f"{_more_lessons(inputs.winner)}; else more training steps, or another label_position or prompt_order",
        Confidence.SURE if naming.guesses and inputs.at_chance else Confidence.LIKELY, Grade.CAUSE,
    )  # fmt: skip


def _more_lessons(trial: StoredTrial) -> str:
    """What to change so that the base learns to name labels, or learns it better."""
    lesson_steps = trial.reports[-1].get("applied/skill_steps")
    if lesson_steps is None:
        return "`skill_steps: auto`, which teaches that first, once for all trials"
    return f"more skill_steps than the {lesson_steps:.0f} that were taken"


def names_without_rule(inputs: DiagnosisInputs) -> Finding | None:
    """The model names labels, but ranks no better than guessing or a simple baseline."""
    naming, unbeaten = inputs.naming, not_beaten(inputs)
    if naming is None or not naming.knows or not (inputs.at_chance or unbeaten) or lost_labels(inputs):
        return None
    other_shares = naming.told()
    seen = f"asked for a candidate by its title, the best trial's model names the label of {naming.best.found:.0%}"
    seen += (f" ({other_shares})" if other_shares else "") + "; "
    guesses = "it adds nothing to the collaborative scores" if inputs.adds_counts else "it ranks as if it guessed"
    seen += guesses if inputs.at_chance else told_beaten(inputs, unbeaten)
    return Finding(
        RULELESS, seen,
        "the form of the task is learned; what is missing is which candidate comes next",
        "more examples (`examples_per_user: null` takes every prefix), more epochs, and rates by three up and down"
        + ("" if inputs.at_chance else "; a larger base or longer histories; else use the baseline"),
        Confidence.LIKELY, limit_or_cause(inputs),
    )  # fmt: skip
