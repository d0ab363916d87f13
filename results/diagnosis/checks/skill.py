"""Whether the model can name labels, and knows the rule."""

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
from results.statistics.what_was_learned import HALF
from results.study.study_folder import StoredTrial


def lost_labels(e: DiagnosisInputs) -> Finding | None:
    """Known untrained, after the lesson or at an earlier report, and forgotten by a training with nothing to show."""
    naming = e.naming
    if naming is None or not is_poor(e):
        return None
    now = naming.reports[-1] if e.at_chance else naming.best
    peak = naming.fall(now)
    if peak is None:
        return None
    rate = e.winner.values.get("learning_rate")
    return Finding(
        LOST, f"asked for a candidate by its title, the best trial's model named the label of "
        f"{peak.found:.0%} {peak.when} and of {now.found:.0%} {now.when}"
        + (f" (learning_rate {rate:.1e})" if rate else ""),
        "the steps are so large that they destroy what a ranking is built on",
        "lower learning_rate by three to ten, lengthen warmup_epochs, or keep such questions in the training "
        "(`skill_mix: 0.1`); if it is lost all the same, read whether the training answers fit their lists",
        Confidence.SURE if e.at_chance and now.high < HALF else Confidence.LIKELY, limit_or_cause(e),
    )  # fmt: skip


def cannot_name_labels(e: DiagnosisInputs) -> Finding | None:
    """In the best trial and in most others. A bold rate is told by itself: it would destroy any skill."""
    naming, known = e.naming, [naming for trial in e.trials if (naming := e.naming_of(trial))]
    failing = [naming for naming in known if naming.fails]
    if naming is None or not naming.fails or 2 * len(failing) <= len(known) or not is_poor(e):
        return None
    if lost_labels(e) or (is_bold(e.winner) and rate_too_high(e)):
        return None
    shares = [s for s in (naming.untrained, naming.taught, naming.reports[0]) if s and s != naming.best]
    seen = f"asked for a candidate by its title, the best trial's model names the label of {naming.best.found:.0%} "
    seen += f"{naming.best.when} (guessing: {naming.guessing:.0%})"
    seen += "".join(f", {share.found:.0%} {share.when}" for share in shares)
    seen += f"; {len(failing)} of {len(known)} trials name less than half" if len(known) > 1 else ""
    return Finding(
        CANNOT, seen,
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


def names_without_rule(e: DiagnosisInputs) -> Finding | None:
    naming, beaten = e.naming, not_beaten(e)
    if naming is None or not naming.knows or not (e.at_chance or beaten) or lost_labels(e):
        return None
    told = naming.told()
    seen = f"asked for a candidate by its title, the best trial's model names the label of {naming.best.found:.0%}"
    seen += (f" ({told})" if told else "") + "; "
    seen += "it ranks as if it guessed" if e.at_chance else told_beaten(e, beaten)
    return Finding(
        RULELESS, seen,
        "the form of the task is learned; what is missing is which candidate comes next",
        "more examples (`examples_per_user: null` takes every prefix), more epochs, and rates by three up and down"
        + ("" if e.at_chance else "; a larger base or longer histories; else use the baseline"),
        Confidence.LIKELY, limit_or_cause(e),
    )  # fmt: skip
