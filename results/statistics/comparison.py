"""Stored trials of one study, or of several on the same lists → what they prove."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reranker.errors import Fault, InputError
from reranker.metrics import FloatArray, summarise, values_of
from results.statistics.paired_tests import (
    Difference,
    Family,
    Flips,
    Ranker,
    mean_interval,
    smallest_detectable,
    standard_error,
    tied,
)
from results.statistics.seed_averages import (
    ConfigurationResult,
    best_first,
    configuration_results,
    not_replicated,
    seed_spread,
)
from results.statistics.what_was_learned import Naming, learned, lesson
from results.study.study_folder import StoredTrial, StudyFolder


def winner(study: StudyFolder) -> StoredTrial | None:
    """The trial of the configuration with the best estimate, pruned ones included; None if no epoch was finished."""
    ranked = configuration_results(study)
    return ranked[0].trial if ranked else None


@dataclass(frozen=True)
class Comparison:
    """What stored ranks prove, by the values of a metric for each user.

    Attributes:
        metric: the study's, or NDCG@10 where that is a loss or where studies differ in it.
        winner: the trial of the configuration with the best estimate.
        interval: of its mean, 95%, by itself.
        against: it and each baseline; p-values and intervals hold although it and its epoch are the best of many.
        alike: the trials whose configurations can't be told from it, itself among them, best first.
        cheapest: that of them with the fewest FLOPs a list, then with the fewest parameters.
        detectable: the difference to a baseline that so many users and trials can prove, with 80% power.
        users: how many lists there are.
        scores: of each run of the configurations that have several, by trial.
        ahead: trials not replicated yet whose one run scored more than the winner's mean, with that score.
        seed_spread: standard deviation between seeds of one configuration; None without replicates.
        seed_degrees: its degrees of freedom.
        user_error: standard error of the winner's mean over users.
        studies: how many were compared.
        configurations: how many were compared.
        naming: how often the winner's model names the label of a title; None where that is not known.
        lesson: what it took to teach the bases that, in a sentence; empty where none was taught.
    """

    metric: str
    winner: StoredTrial
    interval: tuple[float, float]
    against: dict[str, Difference]
    tie_set: list[StoredTrial]
    cheapest: StoredTrial
    detectable: float
    users: int
    scores: dict[str, list[float]]
    ahead: list[tuple[StoredTrial, float]]
    seed_spread: float | None
    seed_degrees: int
    user_error: float
    studies: int
    configurations: int
    naming: Naming | None = None
    lesson: str = ""

    @property
    def learned(self) -> str:
        """What the winner has learned, in a line; empty where nothing is known of its naming."""
        return learned(self.naming, self.against)


def compare(*studies: StudyFolder, ranked: Sequence[ConfigurationResult] | None = None) -> Comparison | None:
    """Tests of every configuration against every baseline, and of the best among each other; None without ranks.

    The best of many is good by luck as well: so every one takes part in the family of comparisons, whether or not it won.

    Args:
        ranked: the configurations of these studies, each study's best first, where they are known already.

    Raises:
        InputError: the studies did not rank the same lists.
    """
    _check_same_lists(studies)
    metric = common_metric(studies)
    found = [c for study in studies for c in configuration_results(study)] if ranked is None else ranked
    pooled = [configuration_result for configuration_result in found if configuration_result.has_ranks]
    if not pooled:
        return None
    if len(studies) > 1:
        pooled = best_first(pooled, metric)
    rankers = [configuration_result.ranker(metric) for configuration_result in pooled]
    baselines = _baselines(studies, metric)
    told = tests(rankers, baselines, resamples=None, seed=0)
    own = rankers[0].values
    spreads = [float((own - of_baseline).std(ddof=1)) for of_baseline in baselines.values() if len(own) > 1]
    several = [configuration_result for configuration_result in pooled if configuration_result.replicates]
    return Comparison(
        metric,
        pooled[0].trial,
        mean_interval(own),
        told.against,
        [pooled[i].trial for i in told.tie_set],
        min((pooled[i].trial for i in told.tie_set), key=cost_of),
        smallest_detectable(max(spreads, default=0.0), len(own), told.reach),
        len(own),
        {name_of(c.trial, len(studies) > 1): c.scores(metric) for c in several},
        [(c.trial, c.score(metric)) for c in not_replicated(pooled, metric)],
        seed_spread(pooled, metric),
        sum(len(c.replicates) for c in several),
        standard_error(own),
        len(studies),
        len(pooled),
        _naming(pooled[0], len(own)),
        lesson(run for configuration_result in pooled for run in configuration_result.runs),
    )


def _naming(best: ConfigurationResult, users: int) -> Naming | None:
    untrained, _ = best.study.zero_shot(str(best.trial.values.get("model")))
    return Naming.of(best.trial, best.metric, untrained.read_figures(), users)


@dataclass(frozen=True)
class Tests:
    """What the permutation tests say of the first of several configurations.

    Attributes:
        against: it and each baseline, among all configurations and baselines.
        alike: places of the configurations that it is not proven better than, among all pairs; its own is the first.
        reach: by how many standard errors the winner must stand out from a baseline to be proven better, see `Family`.
    """

    against: dict[str, Difference]
    tie_set: list[int]
    reach: float


def tests(rankers: Sequence[Ranker], baselines: Mapping[str, FloatArray], resamples: int | None, seed: int) -> Tests:
    """Every configuration against every baseline, and all configurations among each other, each with all its reports.

    Each of the two families has half of the level, so that a false claim of either kind is made in 5 studies of 100 at most.

    Args:
        rankers: the configurations, the winner first.
        baselines: [users] each.
        resamples, seed: see `Flips`.
    """
    count = len(rankers)
    flips = Flips.of([*rankers, *map(Ranker.of, baselines.values())], seed, resamples)
    pairs = list(itertools.product(range(count), range(count, count + len(baselines))))
    families = 2 if count > 1 and baselines else 1
    against = Family.of(flips, pairs, families)
    return Tests(
        dict(zip(baselines, against.differences[: len(baselines)], strict=True)),
        tied(flips, count, families),
        max(against.reach[: len(baselines)], default=0.0),
    )


def _check_same_lists(studies: Sequence[StudyFolder]) -> None:
    if len({study.read_manifest().get("lists", study.path) for study in studies}) > 1:
        named = ", ".join(study.name for study in studies)
        rule = f"{named} did not rank the same lists, so they can't be compared"
        hint = "studies must share their data, users, candidates and how those are drawn"
        raise InputError([Fault(rule, hint=hint)])


def common_metric(studies: Sequence[StudyFolder]) -> str:
    metrics = {str(study.read_manifest()["metric"]) for study in studies}
    metric = metrics.pop()
    return "ndcg_at_10" if metrics or metric.endswith("_loss") else metric


def _baselines(studies: Sequence[StudyFolder], metric: str) -> dict[str, FloatArray]:
    """[users] each, in the order of their ids, so that what is paired belongs together."""
    found = {}
    for study in studies:
        for name, shown in baseline_names(study, studies).items():
            users, ranks = study.baseline(name).read_ranks()
            found[shown] = values_of(ranks, metric)[np.argsort(users, kind="stable")]
    return found


def baseline_names(study: StudyFolder, studies: Sequence[StudyFolder]) -> dict[str, str]:
    """What a study's baselines are called beside those of others: with its name where they scored differently.

    An untrained model is asked in its study's own prompt, so two studies may have two of one name.
    """
    shown = {}
    for name in study.baselines():
        known = [summarise(other.baseline(name).read_ranks()[1]) for other in studies if name in other.baselines()]
        shown[name] = name if all(figures == known[0] for figures in known) else f"{name} of {study.name}"
    return shown


def cost_of(trial: StoredTrial) -> tuple[float, float]:
    last = trial.epochs[-1]
    return last.get("applied/flops_per_list", math.inf), last.get("applied/parameters", math.inf)


def name_of(trial: StoredTrial, several: bool) -> str:
    return f"trial {trial.number}" + (f" of {trial.study}" if several else "")
