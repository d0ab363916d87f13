"""Checks of statistical power: too few users, too few seeds."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from results.diagnosis.checks.measures import how_far_it_leads, is_undecided, pretty_metric
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Confidence, Finding, Grade
from results.statistics.verdict_text import power


def too_few_users(inputs: DiagnosisInputs) -> Finding | None:
    """Some baseline may be clearly better or clearly worse than the best trial."""
    against = inputs.comparison.against if inputs.comparison else {}
    undecided = [name for name in against if is_undecided(inputs, name)]
    if inputs.comparison is None or not undecided:
        return None
    return Finding(
        "too few users",
        f"{how_far_it_leads(inputs, undecided)}; {power(inputs.comparison)}",
        "the difference may be as large as it looks or nothing at all: so few users can't tell",
        "score more users (evaluation_users: null takes all; min_user lets more in), and compare fewer trials",
        Confidence.SURE, Grade.DOUBT,
    )  # fmt: skip


def seed_luck(inputs: DiagnosisInputs) -> Finding | None:
    """The lead of the best replicated configuration over the next is within seed variance.

    Tested with the t distribution, since the pooled spread has few degrees of freedom.
    """
    scores = {name: runs for name, runs in (inputs.comparison.scores if inputs.comparison else {}).items() if runs}
    spread = inputs.comparison.seed_spread if inputs.comparison else None
    if spread is None or len(scores) < 2:
        return None
    (first, first_scores), (second, second_scores), *_ = sorted(
        scores.items(), key=lambda item: -float(np.mean(item[1]))
    )
    lead = float(np.mean(first_scores) - np.mean(second_scores))
    assert inputs.comparison is not None
    critical_t = float(stats.t.ppf(0.975, inputs.comparison.seed_degrees))
    if lead >= critical_t * spread * math.sqrt(1 / len(first_scores) + 1 / len(second_scores)):
        return None
    return Finding(
        "seed luck",
        f"{first} leads {second} by {lead:.4f} {pretty_metric(inputs.comparison.metric)}, averaged over "
        f"{len(first_scores)} and {len(second_scores)} seeds; two seeds of one configuration are "
        f"{math.sqrt(2) * spread:.4f} apart, typically",
        "with other seeds the second might as well stand first",
        "take the cheaper of the two, or run more seeds (--replicate)",
        Confidence.LIKELY, Grade.DOUBT,
    )  # fmt: skip
