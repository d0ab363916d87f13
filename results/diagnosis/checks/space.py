"""The space that was searched, and how its trials ended."""

from __future__ import annotations

from collections import Counter

from scipy import stats

from results.diagnosis.checks.measures import gain_of, pretty_metric
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Confidence, Finding, Grade


def best_at_an_edge(e: DiagnosisInputs) -> Finding | None:
    """All that can't be told from the best lie at the same end, others do not, and the way there goes uphill."""
    tie_set = [trial.number for trial in (e.comparison.tie_set if e.comparison else [])]
    found = {}
    for knob, searched in e.space.items():
        ends = {trial.number: searched.end_at(trial.values[knob]) for trial in e.trials}
        end = ends[e.winner.number]
        inside = [trial for trial in e.trials if ends[trial.number] != end]
        if not end or len(inside) < 2 or not tie_set or any(ends[number] != end for number in tie_set):
            continue
        values = [trial.values[knob] for trial in e.trials]
        scores = [gain_of(e, trial) for trial in e.trials]
        uphill = stats.spearmanr(values, scores).statistic if len(set(values)) > 2 and len(set(scores)) > 1 else 0.0
        if uphill * (1 if end == "high" else -1) >= 0.5:
            found[knob] = (end, inside[0])
    if not found:
        return None
    told = [
        f"{knob} = {e.winner.values[knob]:g}, the {end} end of {e.space[knob].low:g} to {e.space[knob].high:g} "
        f"(best elsewhere: {other.values[knob]:g} with {abs(gain_of(e, other)):.3f})"
        for knob, (end, other) in found.items()
    ]
    return Finding(
        "the best is at an end of its range", f"{pretty_metric(e.metric)} {e.best[e.metric]:.3f} at {'; '.join(told)}",
        "the trials get better towards that end, so better ones may lie beyond it", f"widen the range of {', '.join(found)}",
        Confidence.LIKELY if len(e.trials) >= 8 else Confidence.POSSIBLE, Grade.LIMIT,
    )  # fmt: skip


def failures(e: DiagnosisInputs) -> Finding | None:
    if not e.failed:
        return None
    causes = Counter(trial.cause for trial in e.failed).most_common(3)
    told = "; ".join(f"{cause or 'no cause is known'} ({count}×)" for cause, count in causes)
    return Finding(
        "trials failed", f"{len(e.failed)} of {len(e.failed) + len(e.trials)}: {told}",
        "these configurations were not compared", "see their train.log; `--resume STUDY --retry-failed` tries them again",
        Confidence.SURE, Grade.ASIDE if e.trials else Grade.CAUSE,
    )  # fmt: skip
