"""Stored trials of one study, or of several on the same lists → tests of their differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reranker.errors import Fault, InputError
from reranker.metrics import FloatArray, summarise, values_of
from results.statistics.learning_summary import Naming, learned, lesson
from results.statistics.paired_tests import (
    Difference,
    Family,
    smallest_detectable,
    tied,
)
from results.statistics.seed_averages import (
    ConfigurationResult,
    best_first,
    configuration_results,
    not_replicated,
    on_most_lists,
    seed_spread,
)
from results.statistics.sign_flips import Flips, Ranker
from results.study.stored_trial import StoredTrial
from results.study.study_folder import StudyFolder


def winner(study: StudyFolder) -> StoredTrial | None:
    """The trial of the configuration with the best estimate, pruned ones included; None if no epoch finished."""
    ranked = configuration_results(study)
    return ranked[0].trial if ranked else None


@dataclass(frozen=True)
class Comparison:
    """What stored ranks prove, tested on the per-user values of a metric.

    Attributes:
        metric: the study's metric; NDCG@10 if that is a loss, or if studies have different ones.
        winner: the trial of the configuration with the best estimate.
        interval: the 95% interval of its mean alone.
        against: the winner's difference to each baseline; corrected for the choice of the winner and its epoch.
        tie_set: trials that the winner is not proven better than, itself included, best first.
        cheapest: the one in the tie set with the fewest FLOPs per list, then the fewest parameters.
        detectable: the true difference to a baseline that is proven with 80% power; see `smallest_detectable`.
        users: the number of users.
        scores: one score per run of each replicated configuration, by trial.
        ahead: unreplicated trials that scored more than the winner's mean, with their score.
        seed_spread: standard deviation between seeds of one configuration; None without replicates.
        seed_degrees: its degrees of freedom.
        user_error: standard error of the winner's mean over users.
        studies: the number of compared studies.
        configurations: the number of compared configurations.
        naming: how often the winner's model names the label of a title; None if unknown.
        lesson: what it took to teach the bases to name labels, in a sentence; empty if none was taught.
        lists: the number of the users' lists; None: one each.
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
    lists: int | None = None

    @property
    def learned(self) -> str:
        """What the winner has learned, in a line; empty if its naming is unknown."""
        return learned(self.naming, self.against)


def compare(
    *studies: StudyFolder, ranked: Sequence[ConfigurationResult] | None = None, metric: str | None = None
) -> Comparison | None:
    """Test every configuration against every baseline, and configurations against each other; None without ranks.

    The best of many is partly lucky, so every configuration is in the family of comparisons, not only the winner.

    Args:
        ranked: the configurations of these studies, each study's best first, if known already.
        metric: to compare by; None for `common_metric`.

    Raises:
        InputError: the studies did not rank the same lists.
    """
    _check_same_lists(studies)
    metric = metric or common_metric(studies)
    configurations = [c for study in studies for c in configuration_results(study)] if ranked is None else ranked
    pooled = comparable(configurations)
    if not pooled:
        return None
    if len(studies) > 1:
        pooled = best_first(pooled, metric)
    lists = pooled[0].lists
    rankers = [lists.ranker(configuration_result.ranker(metric)) for configuration_result in pooled]
    list_values = pooled[0].values(metric)
    of_baselines = baseline_values(studies, metric, pooled[0].user_ids)
    baselines = {name: lists.totals(values) for name, values in of_baselines.items()}
    test_results = tests(rankers, baselines, resamples=None, seed=0)
    winner_values = rankers[0].values
    spreads = [
        float((winner_values - of_baseline).std(ddof=1)) for of_baseline in baselines.values() if len(winner_values) > 1
    ]
    with_replicates = [configuration_result for configuration_result in pooled if configuration_result.replicates]
    return Comparison(
        metric,
        pooled[0].trial,
        lists.interval(list_values),
        test_results.against,
        [pooled[i].trial for i in test_results.tie_set],
        min((pooled[i].trial for i in test_results.tie_set), key=cost_of),
        smallest_detectable(max(spreads, default=0.0), len(winner_values), test_results.reach, test_results.families),
        len(lists),
        {name_of(c.trial, len(studies) > 1): c.scores(metric) for c in with_replicates},
        [(c.trial, c.score(metric)) for c in not_replicated(pooled, metric)],
        seed_spread(pooled, metric),
        sum(len(c.replicates) for c in with_replicates),
        lists.error(list_values),
        len(studies),
        len(pooled),
        _naming(pooled[0], len(winner_values)),
        lesson(run for configuration_result in pooled for run in configuration_result.runs),
        lists.lists,
    )


def comparable(configurations: Sequence[ConfigurationResult]) -> list[ConfigurationResult]:
    """Those that are compared: with stored ranks, on as many lists as any other."""
    return on_most_lists([result for result in configurations if result.has_ranks])


def _naming(best: ConfigurationResult, users: int) -> Naming | None:
    untrained, _ = best.study.zero_shot(str(best.trial.values.get("model")))
    return Naming.of(best.trial, best.metric, untrained.read_figures(), users)


@dataclass(frozen=True)
class Tests:
    """Results of the permutation tests for the first of several configurations, the winner.

    Attributes:
        against: its difference to each baseline, corrected for all configurations and baselines.
        tie_set: indices of the configurations that it is not proven better than, its own first; all pairs are tested.
        reach: the lead over a baseline that is proven, in standard errors; see `Family`.
        families: how many share the level.
    """

    against: dict[str, Difference]
    tie_set: list[int]
    reach: float
    families: int


def tests(rankers: Sequence[Ranker], baselines: Mapping[str, FloatArray], resamples: int | None, seed: int) -> Tests:
    """Test every configuration against every baseline, and all pairs of configurations, with all their reports.

    Each of the two families has half of the level, so at most 5 of 100 studies make a false claim of either kind.

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
        families,
    )


def _check_same_lists(studies: Sequence[StudyFolder]) -> None:
    if len({study.read_manifest().get("lists", study.path) for study in studies}) > 1:
        names = ", ".join(study.name for study in studies)
        rule = f"{names} did not rank the same lists, so they can't be compared"
        hint = "studies must share their data, users, candidates and how those are drawn"
        raise InputError([Fault(rule, hint=hint)])


def common_metric(studies: Sequence[StudyFolder]) -> str:
    """The metric to compare studies by: theirs, or NDCG@10 if it is a loss or they have different ones."""
    metrics = {str(study.read_manifest()["metric"]) for study in studies}
    metric = metrics.pop()
    return "ndcg_at_10" if metrics or metric.endswith("_loss") else metric


def baseline_values(studies: Sequence[StudyFolder], metric: str, user_ids: set[str]) -> dict[str, FloatArray]:
    """The values of each baseline on these users' lists, [lists] in the order of their users' ids, so that pairs match."""
    values = {}
    for study in studies:
        for name, shown_name in baseline_names(study, studies).items():
            users, ranks = study.baseline(name).read_ranks()
            order = [row for row in np.argsort(users, kind="stable").tolist() if users[row] in user_ids]
            values[shown_name] = values_of(ranks, metric)[order]
    return values


def baseline_names(study: StudyFolder, studies: Sequence[StudyFolder]) -> dict[str, str]:
    """The names of a study's baselines beside other studies: with the study's name if their scores differ.

    An untrained model is scored with its study's own prompt, so two studies may have two baselines of one name.
    """
    shown_names = {}
    for name in study.baselines():
        figures_by_study = [
            summarise(other_study.baseline(name).read_ranks()[1])
            for other_study in studies
            if name in other_study.baselines()
        ]
        shown_names[name] = (
            name if all(figures == figures_by_study[0] for figures in figures_by_study) else f"{name} of {study.name}"
        )
    return shown_names


def cost_of(trial: StoredTrial) -> tuple[float, float]:
    """(FLOPs per list, parameters); infinite if unknown."""
    last = trial.reports[-1]
    return last.get("applied/flops_per_list", math.inf), last.get("applied/parameters", math.inf)


def name_of(trial: StoredTrial, several: bool) -> str:
    """A trial's name; with its study's if there are several studies."""
    return f"trial {trial.number}" + (f" of {trial.study}" if several else "")
