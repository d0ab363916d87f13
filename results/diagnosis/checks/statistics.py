"""What so few users and seeds can tell."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from results.diagnosis.checks.measures import how_far_it_leads, is_undecided, pretty_metric
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Confidence, Finding, Grade


def too_few_users(e: DiagnosisInputs) -> Finding | None:
    against = e.comparison.against if e.comparison else {}
    undecided = [name for name in against if is_undecided(e, name)]
    if e.comparison is None or not undecided:
        return None
    return Finding(
        "too few users", f"{how_far_it_leads(e, undecided)}; with {e.users} users this comparison has an 80% chance of proving a true "
        f"lead of {e.comparison.detectable:.3f}",
        "the difference may be as large as it looks or nothing at all: so few users can't tell",
        "score more users (evaluation_users: null takes all; min_user lets more in), and compare fewer trials",
        Confidence.SURE, Grade.DOUBT,
    )  # fmt: skip


def seed_luck(e: DiagnosisInputs) -> Finding | None:
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
        "seed luck", f"{first} leads {second} by {lead:.4f} {pretty_metric(e.comparison.metric)}, averaged over {len(ours)} and "
        f"{len(theirs)} seeds; two seeds of one configuration are {math.sqrt(2) * spread:.4f} apart, typically",
        "with other seeds the second might as well stand first", "take the cheaper of the two, or run more seeds (--replicate)",
        Confidence.LIKELY, Grade.DOUBT,
    )  # fmt: skip
