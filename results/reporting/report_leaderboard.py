"""A study → the leaderboard of its report, with intervals, and replicates below their configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reranker.artifacts.trial_folder import TrialFolder
from reranker.command_line.redaction import masked
from reranker.metrics import FloatArray, values_of
from results.leaderboard import LEFT_OUT, PRETTY, REASON, leaderboard, standing
from results.statistics.comparison import Comparison
from results.statistics.lists_of_users import ListsOfUsers
from results.statistics.seed_averages import ConfigurationResult, estimates, on_most_lists, replicated
from results.study.stored_trial import StoredTrial
from results.study.study_folder import StudyFolder

_HEADS = {**PRETTY, "hit": "ceiling", "epoch": "best epoch"}


@dataclass(frozen=True)
class Row:
    """A line of the leaderboard.

    Attributes:
        kind: trial, replicate, baseline or chance.
        place: winner, alike (in the tie set), or empty.
        value: the metric; None before the first epoch.
        interval: the 95% interval of its mean over users; None without ranks.
        note: the summary of a configuration's replicates, in the last one's row; why a baseline was left out, or why a
            trial has no rank.
    """

    kind: str
    name: str
    status: str
    value: float | None
    interval: tuple[float, float] | None
    cells: tuple[str, ...]
    rank: str = ""
    place: str = ""
    note: str = ""


@dataclass(frozen=True)
class Board:
    """The leaderboard. `columns` are the heads of the rows' cells; all values and intervals lie between `ends`."""

    metric: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    ends: tuple[float, float]
    rerun: bool  # whether any configuration has replicates


def board_of(
    study: StudyFolder,
    configuration_results: Sequence[ConfigurationResult],
    comparison: Comparison | None,
    trials: Sequence[StoredTrial] | None = None,
) -> Board:
    """The leaderboard, best first; configurations are sorted by their estimates and show the mean of their runs.

    Those that no report on all lists is known of come after all others, without a rank, unless there are no others.
    """
    manifest = study.read_manifest()
    metric = comparison.metric if comparison else manifest["metric"]
    trials = standing(study, trials)
    last_epochs = [trial.reports[-1] for trial in trials if trial.reports]
    retriever_columns = [
        name for name in ("hit", f"retrieved/{metric}") if any(name in figures for figures in last_epochs)
    ]
    other_metrics = [name for name in ("recall_at_1", "ndcg_at_10") if name != metric]
    columns = [*other_metrics, *retriever_columns, *manifest["knobs"], "train_loss", "val_loss", "epoch", "seconds"]
    by_number = {c.trial.number: c for c in configuration_results}
    tie_set = frozenset(trial.number for trial in comparison.tie_set) if comparison else frozenset[int]()
    maker = _Maker(
        study,
        manifest["metric"],
        set(manifest["knobs"]),
        by_number,
        _intervals(configuration_results, metric),
        comparison,
        tie_set,
        metric,
        columns,
    )
    sign = 1 if manifest["metric"].endswith("_loss") else -1
    compared = on_most_lists(configuration_results)  # the others' scores are on other lists, and bear on no estimate
    scores = {c.trial.number: c.score(manifest["metric"]) for c in configuration_results}
    for c, estimate in zip(compared, estimates(compared, manifest["metric"]), strict=True):
        scores[c.trial.number] = estimate.value
    reruns_of: dict[int | None, list[StoredTrial]] = {}
    for trial in trials:
        reruns_of.setdefault(replicated(trial), []).append(trial)
    on_all = {c.trial.number for c in compared}
    groups: list[tuple[bool, float, list[Row]]] = []  # whether on a part of the lists, what is sorted by, the rows
    for record in leaderboard(study, trials).to_dict("records"):
        if record["kind"] != "trial":
            score = number(record[manifest["metric"]])
            groups.append((False, math.inf if score is None else sign * score, [maker.reference(record)]))
    numbers = {trial.number for trial in trials}
    for trial in trials:
        if replicated(trial) not in numbers:
            score = scores.get(trial.number)
            reruns = reruns_of.get(trial.number, [])
            partial = score is not None and trial.number not in on_all
            key = math.inf if score is None else sign * score
            groups.append((partial, key, maker.configuration(trial, reruns, partial=partial)))
    groups.sort(key=lambda group: group[:2])
    rows = []
    for rank, (partial, key, (first, *others)) in enumerate(groups, start=1):
        rows += [first if partial or math.isinf(key) else replace(first, rank=f"{rank}"), *others]
    bounds = [bound for row in rows for bound in (row.value, *(row.interval or ())) if bound is not None]
    return Board(
        PRETTY.get(metric, metric),
        tuple(_HEADS.get(c, f"if listed: {PRETTY.get(metric, metric)}" if "/" in c else c) for c in columns),
        tuple(rows),
        (min(bounds, default=0.0), max(bounds, default=1.0)),
        any(row.kind == "replicate" for row in rows),
    )


@dataclass(frozen=True)
class _Maker:
    """Makes the rows of a study's leaderboard."""

    study: StudyFolder
    chosen_by: str  # the metric that chooses a trial's best report
    knobs: set[str]
    configuration_results: dict[int, ConfigurationResult]
    intervals: dict[int, tuple[float, float]]  # of those with ranks
    comparison: Comparison | None
    tie_set: frozenset[int]
    metric: str
    columns: list[str]

    def reference(self, record: Mapping[Any, Any]) -> Row:
        """The row of a baseline or of chance."""
        folder = self.study.baseline(record["name"])
        interval = _interval(folder, self.metric) if record["kind"] == "baseline" and folder.has_ranks else None
        figures = {**folder.read_figures(), **record} if record["kind"] == "baseline" else record
        value, name = number(record[self.metric]), masked(record["name"])
        row = Row(record["kind"], name, "", value, interval, self._cells(figures))
        if record["status"] == LEFT_OUT:
            row = replace(row, status=LEFT_OUT, note=f"{name} is left out: {record[REASON]}")
        return row

    def configuration(self, trial: StoredTrial, reruns: list[StoredTrial], *, partial: bool = False) -> list[Row]:
        """A configuration's row; if it has replicates, also a row for each of its runs.

        Args:
            partial: whether others are known on more lists.
        """
        configuration_result = self.configuration_results.get(trial.number)
        if configuration_result is None:
            return [Row("trial", masked(trial.name), trial.status.value, None, None, self._cells(trial.values))]
        figures = self._figures(trial) | configuration_result.figures | {"seconds": trial.reports[-1].get("seconds")}
        interval, place = self.intervals.get(trial.number), ""
        if self.comparison:
            winner = trial.number == self.comparison.winner.number
            place = "winner" if winner else "alike" if trial.number in self.tie_set else ""
        score = number(figures.get(self.metric))
        row = Row("trial", masked(trial.name), trial.status.value, score, interval, self._cells(figures), place=place)
        if partial:
            row = replace(
                row, note=f"scored on {configuration_result.share:.0%} of the lists so far, hence without a rank"
            )
        if not reruns:
            return [row]
        runs = [self._run(trial, "the search's own run"), *(self._run(t, f"seed {t.values['seed']}") for t in reruns)]
        runs[-1] = Row(**{**vars(runs[-1]), "note": self._luck(configuration_result)})
        return [row, *runs]

    def _run(self, trial: StoredTrial, name: str) -> Row:
        folder, figures = self.study.trial(trial.number), self._figures(trial)
        interval = _interval(folder, self.metric) if folder.has_ranks else None
        value = number(figures.get(self.metric))
        return Row(
            "replicate", f"{name} (trial {trial.number})", trial.status.value, value, interval, self._cells(figures)
        )

    def _luck(self, configuration_result: ConfigurationResult) -> str:
        """The spread between seeds and between users, as text."""
        scores = configuration_result.scores(self.metric)
        if len(scores) < 2:
            return ""
        users = (
            f", ±{configuration_result.lists.error(configuration_result.values(self.metric)):.3f} with the users"
            if configuration_result.has_ranks
            else ""
        )
        spread = float(np.std(scores, ddof=1))
        return f"{len(scores)} seeds, mean {np.mean(scores):.3f}: ±{spread:.3f} from seed to seed{users}"

    def _figures(self, trial: StoredTrial) -> dict[str, Any]:
        best = trial.best(self.chosen_by) or {}
        return {**trial.values, **best, "seconds": trial.reports[-1].get("seconds") if trial.reports else None}

    def _cells(self, figures: Mapping[Any, Any]) -> tuple[str, ...]:
        exact = {"epoch", *self.knobs}
        return tuple(spelled(name, figures.get(name), exact=name in exact) for name in self.columns)


def number(value: Any) -> float | None:
    """A figure as a number; None if it is missing, NA or infinite."""
    try:
        converted = float(value)
    except (TypeError, ValueError):
        return None
    return converted if math.isfinite(converted) else None


def spelled(name: str, value: Any, *, exact: bool) -> str:
    """A value as a cell shows it; `exact` is for values that were set, not measured."""
    if isinstance(value, bool | str | list | dict):
        return masked(str(value))
    numeric = number(value)
    if numeric is None:
        return ""
    if name == "seconds":
        return f"{numeric:.0f}"
    if not exact:
        return f"{numeric:.3f}"
    return f"{value}" if isinstance(value, int) else f"{numeric:.1e}" if 0 < abs(numeric) < 0.01 else f"{numeric:.4g}"


def _intervals(results: Sequence[ConfigurationResult], metric: str) -> dict[int, tuple[float, float]]:
    """The 95% interval of each configuration with ranks, by its trial; those on the same lists are computed together."""
    on_lists: dict[int, list[tuple[ConfigurationResult, FloatArray]]] = {}  # by their number
    for result in results:
        if result.has_ranks:
            values = result.values(metric)
            on_lists.setdefault(len(values), []).append((result, values))
    found: dict[int, tuple[float, float]] = {}
    for together in on_lists.values():
        intervals = together[0][0].lists.intervals(np.array([values for _, values in together]))
        found |= {result.trial.number: interval for (result, _), interval in zip(together, intervals, strict=True)}
    return found


def _interval(folder: TrialFolder, metric: str) -> tuple[float, float] | None:
    """The 95% interval of the metric's mean; None without lists."""
    users, ranks = folder.read_ranks()
    values = values_of(ranks, metric)[np.argsort(users, kind="stable")]
    return ListsOfUsers.of(sorted(users)).interval(values) if len(values) else None
