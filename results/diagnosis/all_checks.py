"""All checks, ordered by grade, and which findings explain which others."""

from __future__ import annotations

from collections.abc import Callable

from results.diagnosis.checks.data import (
    baseline_does_as_well,
    labels_do_not_fit,
    leaked_in_training,
    leaked_target,
    retriever_ceiling,
)
from results.diagnosis.checks.measures import ADDS_NOTHING, CANNOT, LOST, RULELESS
from results.diagnosis.checks.optimisation import (
    adds_nothing,
    at_chance,
    no_better_than_untrained,
    not_applied,
    overfitting,
    rate_too_high,
    rate_too_low,
    still_learning,
    too_few_steps,
)
from results.diagnosis.checks.prompt import (
    easier_lists,
    history_is_cut,
    label_prior,
    labels_are_improbable,
    template_mismatch,
)
from results.diagnosis.checks.segments import worse_on_a_part
from results.diagnosis.checks.skill import cannot_name_labels, lost_labels, names_without_rule
from results.diagnosis.checks.space import best_at_an_edge, failures
from results.diagnosis.checks.statistics import seed_luck, too_few_users
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Finding

CHECKS: tuple[Callable[[DiagnosisInputs], Finding | None], ...] = (
    at_chance, adds_nothing, leaked_target, lost_labels, cannot_name_labels, too_few_steps, rate_too_high, names_without_rule,
    label_prior, leaked_in_training, template_mismatch, not_applied, labels_do_not_fit, rate_too_low,
    no_better_than_untrained, labels_are_improbable, history_is_cut, overfitting, baseline_does_as_well,
    retriever_ceiling, worse_on_a_part, easier_lists, still_learning, best_at_an_edge, too_few_users, seed_luck, failures,
)  # fmt: skip
_UNLEARNT = {"no better than untrained", "label prior", "labels are improbable"}
EXPLAINS = {  # a finding → the findings it explains; an explained finding explains nothing itself
    "at chance": {"no better than untrained"},
    ADDS_NOTHING: {"no better than untrained", "a simple baseline does as well"},
    "leaked target": {"leaked in training", "template mismatch", "label prior"},
    "leaked in training": {
        "overfitting",
        "template mismatch",
        "rate too high",
        "no better than untrained",
        "labels are improbable",
        RULELESS,
    },
    LOST: {CANNOT, RULELESS, "rate too high", "still learning at its end", *_UNLEARNT},
    CANNOT: {"labels don't fit their lists", "still learning at its end", *_UNLEARNT},
    RULELESS: _UNLEARNT,
    "too few steps": {
        RULELESS,
        "still learning at its end",
        "rate too low",
        "rate too high",
        "labels don't fit their lists",
        *_UNLEARNT,
    },
    "applied is not configured": {"rate too low", RULELESS, *_UNLEARNT},
    "label prior": {"leaked in training", "template mismatch", "no better than untrained"},
    "template mismatch": {
        "overfitting",
        "rate too high",
        "no better than untrained",
        "labels are improbable",
        RULELESS,
    },
    "rate too high": {
        "overfitting",
        "labels don't fit their lists",
        "still learning at its end",
        RULELESS,
        *_UNLEARNT,
    },
    "labels don't fit their lists": {"overfitting", "still learning at its end", *_UNLEARNT},
    "rate too low": {"still learning at its end", RULELESS, *_UNLEARNT},
    "overfitting": {RULELESS},
}
