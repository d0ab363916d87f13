"""Stored trials → contenders: configurations, each with the run that the search made and its reruns with other seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reranker.metrics import FloatArray, per_list
from results.study_folder import StoredTrial, StudyFolder, TrialStatus

REPLICATE = "replicate of"  # and the number of the trial: the origin of a rerun


@dataclass(frozen=True, eq=False)
class Contender:
    """A configuration.

    The search's own run of it was picked for its score, which good luck has raised. Where there are replicates they alone
    judge the configuration, since nobody picked them.

    Attributes:
        study: whose it is.
        trial: the search's own run.
        replicates: its finished reruns, by number.
    """

    study: StudyFolder
    trial: StoredTrial
    replicates: tuple[StoredTrial, ...] = ()

    @property
    def judges(self) -> tuple[StoredTrial, ...]:
        """The runs whose mean is the configuration's score."""
        return self.replicates or (self.trial,)

    @property
    def has_ranks(self) -> bool:
        """Whether each of its judges has them."""
        return all(self.study.trial(run.number).has_ranks for run in self.judges)

    def scores(self, metric: str) -> list[float]:
        """Of each of its judges, at its best epoch."""
        return [float(best[metric]) for run in self.judges if (best := run.best(metric)) is not None]

    def score(self, metric: str) -> float:
        return float(np.mean(self.scores(metric)))

    def values(self, metric: str) -> FloatArray:
        """The metric of each user, mean over the judges, [users] in the order of their ids."""
        rows = []
        for run in self.judges:
            users, ranks = self.study.trial(run.number).read_ranks()
            rows.append(per_list(ranks)[metric][np.argsort(users, kind="stable")])
        mean: FloatArray = np.mean(rows, axis=0)
        return mean


def replicated(trial: StoredTrial) -> int | None:
    """The number of the trial that this one repeats."""
    match = re.fullmatch(rf"{REPLICATE} (\d+)", trial.origin)
    return int(match[1]) if match else None


def contenders(study: StudyFolder) -> list[Contender]:
    """Every configuration with a finished epoch, the best first by the study's metric: those that were replicated, if any
    were, before those that were not."""
    metric = study.read_manifest()["metric"]
    sign = 1 if metric.endswith("_loss") else -1
    trials = [trial for trial in study.trials() if trial.epochs]
    reruns: dict[int, list[StoredTrial]] = {}
    for trial in trials:
        original = replicated(trial)
        if original is not None and trial.status is TrialStatus.COMPLETED:
            reruns.setdefault(original, []).append(trial)
    found = [
        Contender(study, trial, tuple(reruns.get(trial.number, ()))) for trial in trials if replicated(trial) is None
    ]
    return sorted(found, key=lambda contender: (not contender.replicates, sign * contender.score(metric)))


def seed_spread(contenders: Sequence[Contender], metric: str) -> float | None:
    """Standard deviation of the metric between seeds of one configuration, pooled over those with two seeds or more."""
    groups = [scores for contender in contenders if len(scores := contender.scores(metric)) > 1]
    if not groups:
        return None
    squares = sum(float(np.var(scores, ddof=1)) * (len(scores) - 1) for scores in groups)
    return float(np.sqrt(squares / sum(len(scores) - 1 for scores in groups)))
