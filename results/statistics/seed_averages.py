"""Stored trials → contenders: configurations, each with the run that the search made and its reruns with other seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reranker.metrics import METRIC_NAMES, FloatArray, values_of
from results.statistics.paired_tests import Ranker
from results.study.study_folder import StoredTrial, StudyFolder, TrialStatus
from results.study.trial_origin import OriginKind

_FAR = 4.0  # standard errors behind the best, beyond which a configuration tells nothing more of those in front
_LEAST = 0.25  # of the variance between seeds: configurations are taken to differ by as much at least
_COULD = 2.0  # posterior standard deviations within which a configuration could still be the best


@dataclass(frozen=True, eq=False)
class ConfigurationResult:
    """A configuration. Each of its runs has one chosen report, the best by the study's metric; all figures are from there.

    Attributes:
        study: whose it is.
        metric: the study's, which chooses.
        trial: the search's own run.
        replicates: its finished reruns, by number.
    """

    study: StudyFolder
    metric: str
    trial: StoredTrial
    replicates: tuple[StoredTrial, ...] = ()

    @property
    def runs(self) -> tuple[StoredTrial, ...]:
        return self.trial, *self.replicates

    @property
    def has_ranks(self) -> bool:
        """Whether each of its runs has them."""
        return all(self.study.trial(run.number).has_ranks for run in self.runs)

    def scores(self, metric: str) -> list[float]:
        """Of each of its runs, at its chosen report."""
        return [float(best[metric]) for run in self.runs if (best := run.best(self.metric)) is not None]

    def score(self, metric: str) -> float:
        return float(np.mean(self.scores(metric)))

    @property
    def figures(self) -> dict[str, Any]:
        """Those of the chosen report; metrics and losses as means over the runs."""
        own = self.trial.best(self.metric) or {}
        shared = [name for name in own if name.removeprefix("retrieved/") in METRIC_NAMES or name.endswith("_loss")]
        return {**own, **{name: self.score(name) for name in shared}}

    def ranker(self, metric: str) -> Ranker:
        """The metric of each user, in the order of their ids, for every report of every run."""
        runs, chosen = [], []
        for run in self.runs:
            folder, best = self.study.trial(run.number), run.best(self.metric)
            order = np.argsort(folder.read_user_ids(), kind="stable")
            reports = [folder.read_report(figures["epoch"])[0] for figures in run.epochs]
            runs.append(np.array([values_of(ranks, metric)[order] for ranks in reports]))
            chosen.append(next(i for i, figures in enumerate(run.epochs) if figures is best))
        return Ranker(tuple(runs), tuple(chosen))

    def values(self, metric: str) -> FloatArray:
        """The metric of each user at the chosen report, mean over the runs, [users] in the order of their ids."""
        rows = []
        for run in self.runs:
            users, ranks = self.study.trial(run.number).read_ranks()
            rows.append(values_of(ranks, metric)[np.argsort(users, kind="stable")])
        mean: FloatArray = np.mean(rows, axis=0)
        return mean


@dataclass(frozen=True)
class Estimate:
    """What a configuration would score on average over seeds, judged by the runs that it has.

    Attributes:
        value: in the metric's own units.
        error: the standard deviation of what is not known of it; None before any configuration has two runs.
    """

    value: float
    error: float | None

    def could_be_best(self, leader: Estimate, sign: int) -> bool:
        """Whether its upper end reaches the leader's lower one; `sign` is -1 where less is better."""
        if self.error is None or leader.error is None:
            return True
        return sign * (self.value - leader.value) + _COULD * (self.error + leader.error) >= 0

    def upper(self, sign: int) -> float:
        """Its better end, the higher the better."""
        return sign * self.value + _COULD * (self.error or 0.0)


def sign_of(metric: str) -> int:
    """-1 where less is better."""
    return -1 if metric.endswith("_loss") else 1


def replicated(trial: StoredTrial) -> int | None:
    """The number of the trial that this one repeats."""
    return trial.origin.trial if trial.origin.kind is OriginKind.REPLICATE else None


def configuration_results(study: StudyFolder, trials: Sequence[StoredTrial] | None = None) -> list[ConfigurationResult]:
    """Every configuration with a finished epoch, the best estimate by the study's metric first.

    Args:
        trials: the study's, where they were read already.
    """
    metric = study.read_manifest()["metric"]
    known = [trial for trial in (study.trials() if trials is None else trials) if trial.epochs]
    reruns: dict[int, list[StoredTrial]] = {}
    for trial in known:
        original = replicated(trial)
        if original is not None and trial.status is TrialStatus.COMPLETED:
            reruns.setdefault(original, []).append(trial)
    found = [
        ConfigurationResult(study, metric, trial, tuple(reruns.get(trial.number, ())))
        for trial in known
        if replicated(trial) is None
    ]
    return best_first(found, metric)


def best_first(configuration_results: Sequence[ConfigurationResult], metric: str) -> list[ConfigurationResult]:
    """By their estimates; the first one among equals stays first."""
    sign, found = sign_of(metric), estimates(configuration_results, metric)
    order = sorted(range(len(configuration_results)), key=lambda i: -sign * found[i].value)
    return [configuration_results[i] for i in order]


def estimates(configuration_results: Sequence[ConfigurationResult], metric: str) -> list[Estimate]:
    """Each configuration's mean over its runs, drawn towards the mean of all, the more the fewer its runs are.

    mu + t² / (t² + s² / n) · (mean − mu), with n runs, s² the variance between seeds, pooled over the configurations that have
    several, and t² that between configurations: var(means) − mean(s² / n), at least a quarter of s². So what one run owes to
    luck counts for less, never for nothing (Efron & Morris, JASA 70, 1975). For mu and t² a configuration far behind counts as
    four standard errors behind the best: those that learned nothing must not make a lucky one believed. Before any
    configuration has two runs, the means stand as they are.
    """
    means = np.array([configuration_result.score(metric) for configuration_result in configuration_results])
    spread = seed_spread(configuration_results, metric)
    if spread is None:
        return [Estimate(float(mean), None) for mean in means]
    noise = spread**2 / np.array([len(configuration_result.runs) for configuration_result in configuration_results])
    if spread == 0 or len(means) < 2:
        return [Estimate(float(mean), float(np.sqrt(own))) for mean, own in zip(means, noise, strict=True)]
    sign = sign_of(metric)
    best = int(np.argmax(sign * means))
    near = sign * np.maximum(sign * means, sign * means[best] - _FAR * np.sqrt(noise + noise[best]))
    between = max(float(np.var(near, ddof=1) - noise.mean()), _LEAST * spread**2)
    centre = float(np.average(near, weights=1 / (between + noise)))
    share = between / (between + noise)
    values, errors = centre + share * (means - centre), np.sqrt(share * noise)
    return [Estimate(float(value), float(error)) for value, error in zip(values, errors, strict=True)]


def not_replicated(configuration_results: Sequence[ConfigurationResult], metric: str) -> list[ConfigurationResult]:
    """Of configurations in their order: those whose one run is ahead of the first, which has several."""
    if not configuration_results or len(configuration_results[0].runs) == 1:
        return []
    sign, first = sign_of(metric), configuration_results[0].score(metric)
    ahead = [c for c in configuration_results[1:] if len(c.runs) == 1 and sign * (c.score(metric) - first) > 0]
    return sorted(ahead, key=lambda c: -sign * c.score(metric))


def seed_spread(configuration_results: Sequence[ConfigurationResult], metric: str) -> float | None:
    """Standard deviation of the metric between seeds of one configuration, pooled over those with two runs or more."""
    groups = [
        scores
        for configuration_result in configuration_results
        if len(scores := configuration_result.scores(metric)) > 1
    ]
    if not groups:
        return None
    squares = sum(float(np.var(scores, ddof=1)) * (len(scores) - 1) for scores in groups)
    return float(np.sqrt(squares / sum(len(scores) - 1 for scores in groups)))
