"""Checks of the search space and of failed trials."""

from __future__ import annotations

from collections import Counter

from scipy import stats

from results.diagnosis.checks.measures import gain_of, pretty_metric
from results.diagnosis.diagnosis_inputs import DiagnosisInputs
from results.diagnosis.finding import Confidence, Finding, Grade


def best_at_an_edge(inputs: DiagnosisInputs) -> Finding | None:
    """The whole tie set lies at one end of a range, other trials do not, and the score rises towards that end."""
    tied_numbers = [trial.number for trial in (inputs.comparison.tie_set if inputs.comparison else [])]
    edges = {}
    for knob, knob_range in inputs.space.items():
        ends = {trial.number: knob_range.end_at(trial.values[knob]) for trial in inputs.trials}
        end = ends[inputs.winner.number]
        elsewhere = [trial for trial in inputs.trials if ends[trial.number] != end]
        if not end or len(elsewhere) < 2 or not tied_numbers or any(ends[number] != end for number in tied_numbers):
            continue
        values = [trial.values[knob] for trial in inputs.trials]
        scores = [gain_of(inputs, trial) for trial in inputs.trials]
        uphill = stats.spearmanr(values, scores).statistic if len(set(values)) > 2 and len(set(scores)) > 1 else 0.0
        if uphill * (1 if end == "high" else -1) >= 0.5:
            edges[knob] = (end, elsewhere[0])
    if not edges:
        return None
    edge_texts = [
        f"{knob} = {inputs.winner.values[knob]:g}, the {end} end of {inputs.space[knob].low:g} to "
        f"{inputs.space[knob].high:g} (best elsewhere: {best_elsewhere.values[knob]:g} with {abs(gain_of(inputs, best_elsewhere)):.3f})"
        for knob, (end, best_elsewhere) in edges.items()
    ]
    return Finding(
        "the best is at an end of its range",
        f"{pretty_metric(inputs.metric)} {inputs.best[inputs.metric]:.3f} at {'; '.join(edge_texts)}",
        "the trials get better towards that end, so better ones may lie beyond it",
        f"widen the range of {', '.join(edges)}",
        Confidence.LIKELY if len(inputs.trials) >= 8 else Confidence.POSSIBLE, Grade.LIMIT,
    )  # fmt: skip


def failures(inputs: DiagnosisInputs) -> Finding | None:
    """Some trials failed."""
    if not inputs.failed:
        return None
    causes = Counter(trial.cause for trial in inputs.failed).most_common(3)
    cause_counts = "; ".join(f"{cause or 'no cause is known'} ({count}×)" for cause, count in causes)
    scored = sum(bool(trial.reports) for trial in inputs.failed)
    return Finding(
        "trials failed", f"{len(inputs.failed)} of {inputs.ended}: {cause_counts}",
        "these configurations were not compared" if not scored else "these configurations are compared by what they had "
        "reported before" if scored == len(inputs.failed) else "these configurations were not compared, but for what "
        f"{scored} of them had reported before",
        "see their train.log; `--resume STUDY --retry-failed` tries them again" if inputs.data
        else "see what these runs have logged",  # a table's rows
        Confidence.SURE, Grade.ASIDE if inputs.trials else Grade.CAUSE,
    )  # fmt: skip
