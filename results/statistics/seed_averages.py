"""Stored trials → configurations, each with the search's own run and its replicates with other seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reranker.metrics import METRIC_NAMES, FloatArray, values_of
from reranker.report_figures import report_number, scored_share
from results.statistics.lists_of_users import ListsOfUsers
from results.statistics.sign_flips import Ranker
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder
from results.study.trial_origin import OriginKind

_FAR = 4.0  # standard errors behind the best; configurations further back count as being here
_LEAST = 0.25  # the least variance between configurations, as a fraction of that between seeds
_COULD = 2.0  # posterior standard deviations; a configuration within this range could still be the best


@dataclass(frozen=True, eq=False)
class ConfigurationResult:
    """A configuration. All its figures are from each run's chosen report, the best by the study's metric.

    Attributes:
        study: the study it belongs to.
        metric: the study's metric, by which reports are chosen.
        trial: the search's own run.
        replicates: its finished reruns, by number.
    """

    study: StudyFolder
    metric: str
    trial: StoredTrial
    replicates: tuple[StoredTrial, ...] = ()
    _rankers: dict[str, Ranker] = field(
        default_factory=dict, init=False, repr=False
    )  # by metric, once they were asked for

    @property
    def runs(self) -> tuple[StoredTrial, ...]:
        """The search's own run, then the replicates."""
        return self.trial, *self.replicates

    @property
    def share(self) -> float:
        """The share of the lists that its own run's chosen report is on."""
        return scored_share(self.trial.best(self.metric) or {})

    @property
    def has_ranks(self) -> bool:
        """Whether every run has stored ranks."""
        return all(self.study.trial(run.number).has_ranks for run in self.runs)

    @property
    def user_ids(self) -> set[str]:
        """The users whose lists are ranked."""
        return set(self.study.trial(self.trial.number).read_user_ids())

    @property
    def lists(self) -> ListsOfUsers:
        """Whose the ranked lists are, in the order of `ranker` and `values`."""
        return ListsOfUsers.of(sorted(self.study.trial(self.trial.number).read_user_ids()))

    def scores(self, metric: str) -> list[float]:
        """A metric of each run at its chosen report."""
        return [float(best[metric]) for run in self.runs if (best := run.best(self.metric)) is not None]

    def score(self, metric: str) -> float:
        """The mean of a metric over the runs."""
        return float(np.mean(self.scores(metric)))

    @property
    def figures(self) -> dict[str, Any]:
        """The figures of the own run's chosen report; metrics and losses are means over the runs."""
        own_figures = self.trial.best(self.metric) or {}
        averaged = [
            name for name in own_figures if name.removeprefix("retrieved/") in METRIC_NAMES or name.endswith("_loss")
        ]
        return {**own_figures, **{name: self.score(name) for name in averaged}}

    def ranker(self, metric: str) -> Ranker:
        """The metric of each list for every report of every run, in the order of their users' ids; without the reports
        that are on fewer lists than the chosen one."""
        if metric not in self._rankers:
            self._rankers[metric] = self._read_ranker(metric)
        return self._rankers[metric]

    def _read_ranker(self, metric: str) -> Ranker:
        runs, chosen = [], []
        for run in self.runs:
            folder, best = self.study.trial(run.number), run.best(self.metric)
            order = folder.read_user_order()
            compared = [figures for figures in run.reports if scored_share(figures) == scored_share(best or {})]
            reports = [folder.read_report(report_number(figures)) for figures in compared]
            runs.append(np.array([values_of(ranks, metric)[order] for ranks in reports]))
            chosen.append(next(i for i, figures in enumerate(compared) if figures is best))
        return Ranker(tuple(runs), tuple(chosen))

    def values(self, metric: str) -> FloatArray:
        """The metric of each list at the chosen report, mean over the runs, [lists] in the order of their users' ids."""
        if metric in self._rankers:
            return self._rankers[metric].values
        rows = []
        for run in self.runs:
            folder = self.study.trial(run.number)
            rows.append(values_of(folder.read_ranks_alone(), metric)[folder.read_user_order()])
        mean: FloatArray = np.mean(rows, axis=0)
        return mean


@dataclass(frozen=True)
class Estimate:
    """A configuration's estimated mean score over seeds.

    Attributes:
        value: in the metric's own units.
        error: its posterior standard deviation; None before any configuration has two runs.
    """

    value: float
    error: float | None

    def could_be_best(self, leader: Estimate, sign: int) -> bool:
        """Whether its upper bound reaches the leader's lower bound; `sign` is -1 if lower is better."""
        if self.error is None or leader.error is None:
            return True
        return sign * (self.value - leader.value) + _COULD * (self.error + leader.error) >= 0

    def upper(self, sign: int) -> float:
        """Its optimistic bound, with the sign that makes higher better."""
        return sign * self.value + _COULD * (self.error or 0.0)


def sign_of(metric: str) -> int:
    """-1 if lower is better, else 1."""
    return -1 if metric.endswith("_loss") else 1


def replicated(trial: StoredTrial) -> int | None:
    """The number of the trial that this one replicates; None if it is no replicate."""
    return trial.origin.trial if trial.origin.kind is OriginKind.REPLICATE else None


def configuration_results(study: StudyFolder, trials: Sequence[StoredTrial] | None = None) -> list[ConfigurationResult]:
    """Every configuration with a finished epoch, best estimate of the study's metric first.

    Args:
        trials: the study's trials, if read already.
    """
    metric = study.read_manifest()["metric"]
    with_epochs = [trial for trial in (study.trials() if trials is None else trials) if trial.reports]
    reruns: dict[int, list[StoredTrial]] = {}
    for trial in with_epochs:
        original = replicated(trial)
        if original is not None and trial.status is TrialStatus.COMPLETED:
            reruns.setdefault(original, []).append(trial)
    results = [
        ConfigurationResult(study, metric, trial, tuple(reruns.get(trial.number, ())))
        for trial in with_epochs
        if replicated(trial) is None
    ]
    return best_first(results, metric)


def best_first(configuration_results: Sequence[ConfigurationResult], metric: str) -> list[ConfigurationResult]:
    """Sort configurations by their estimates; ties keep their order. Those stopped before a report on all lists are
    last, unless no other has one."""
    compared = on_most_lists(configuration_results)
    sign, values = sign_of(metric), estimates(compared, metric)
    order = sorted(range(len(compared)), key=lambda i: -sign * values[i].value)
    others = [result for result in configuration_results if result not in compared]
    others.sort(key=lambda result: -sign * result.score(metric))
    return [*(compared[i] for i in order), *others]


def on_most_lists(configuration_results: Sequence[ConfigurationResult]) -> list[ConfigurationResult]:
    """Those that can be compared: on all lists; or, before any has such a report, on the part that reports within an
    epoch are on, which is the same for all."""
    most = max((result.share for result in configuration_results), default=1.0)
    return [result for result in configuration_results if result.share == most]


def estimates(configuration_results: Sequence[ConfigurationResult], metric: str) -> list[Estimate]:
    """Each configuration's mean over its runs, shrunk towards the mean of all; fewer runs are shrunk more.

    mu + t² / (t² + s² / n) · (mean − mu), for n runs. s² is the variance between seeds, pooled over the configurations
    with several runs. t² is the variance between configurations: var(means) − mean(s² / n), at least a quarter of s².
    So luck in a single run counts for less. Source: Efron & Morris, JASA 70, 1975. For mu and t², a configuration far
    behind counts as four standard errors behind the best: otherwise those that learned nothing inflate t², and a
    lucky run is shrunk too little. Before any configuration has two runs, nothing is shrunk.
    """
    means = np.array([configuration_result.score(metric) for configuration_result in configuration_results])
    spread = seed_spread(configuration_results, metric)
    if spread is None:
        return [Estimate(float(mean), None) for mean in means]
    noise = spread**2 / np.array([len(configuration_result.runs) for configuration_result in configuration_results])
    if spread == 0 or len(means) < 2:
        return [Estimate(float(mean), float(np.sqrt(variance))) for mean, variance in zip(means, noise, strict=True)]
    sign = sign_of(metric)
    best = int(np.argmax(sign * means))
    clipped = sign * np.maximum(sign * means, sign * means[best] - _FAR * np.sqrt(noise + noise[best]))
    between = max(float(np.var(clipped, ddof=1) - noise.mean()), _LEAST * spread**2)
    centre = float(np.average(clipped, weights=1 / (between + noise)))
    shrinkage = between / (between + noise)
    values, errors = centre + shrinkage * (means - centre), np.sqrt(shrinkage * noise)
    return [Estimate(float(value), float(error)) for value, error in zip(values, errors, strict=True)]


def not_replicated(configuration_results: Sequence[ConfigurationResult], metric: str) -> list[ConfigurationResult]:
    """Configurations whose only run scored more than the first configuration, which has several runs."""
    if not configuration_results or len(configuration_results[0].runs) == 1:
        return []
    sign, first_score = sign_of(metric), configuration_results[0].score(metric)
    ahead = [c for c in configuration_results[1:] if len(c.runs) == 1 and sign * (c.score(metric) - first_score) > 0]
    return sorted(ahead, key=lambda c: -sign * c.score(metric))


def seed_spread(configuration_results: Sequence[ConfigurationResult], metric: str) -> float | None:
    """Standard deviation of a metric between seeds of one configuration, pooled over those with several runs."""
    groups = [
        scores
        for configuration_result in configuration_results
        if len(scores := configuration_result.scores(metric)) > 1
    ]
    if not groups:
        return None
    squares = sum(float(np.var(scores, ddof=1)) * (len(scores) - 1) for scores in groups)
    return float(np.sqrt(squares / sum(len(scores) - 1 for scores in groups)))
