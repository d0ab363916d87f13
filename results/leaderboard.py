"""A study's stored trials → its leaderboard, as a data frame and for a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from reranker.command_line.printable_text import plain
from reranker.command_line.redaction import masked
from reranker.metrics import METRIC_NAMES
from reranker.report_figures import SCORED_SHARE
from results.study.runs_home import search_command
from results.study.search_state import SearchState, Stage
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder

PRETTY = {
    **{
        f"{measure}_at_{k}": f"{shown}@{k}"
        for measure, shown in (("recall", "Recall"), ("ndcg", "NDCG"))
        for k in (1, 5, 10)
    },
    "mrr_at_10": "MRR@10",
    "train_loss": "train loss",
    "val_loss": "val. loss",
}
_COLUMNS = ["rank", "name", "kind", "status", "epoch", *METRIC_NAMES, "train_loss", "val_loss", "seconds"]
_MOST_ROWS = 100
_SHOWN = ["rank", "name", "status", "epoch", "recall_at_1", "ndcg_at_10", "train_loss", "val_loss", "seconds"]
LEFT_OUT, REASON = "left out", "reason"  # of a baseline that was asked for
_FIRST_TO_GO = [
    "train_loss",
    "val_loss",
    "seconds",
    "epoch",
]  # dropped in this order, then the knobs from the right, the status, the rank


def standing(study: StudyFolder, trials: Iterable[StoredTrial] | None = None) -> list[StoredTrial]:
    """The trials with their present status: trials left running by a search that has ended count as interrupted.

    Args:
        trials: the study's trials, if read already.
    """
    trials = list(study.trials() if trials is None else trials)
    if not any(trial.status is TrialStatus.RUNNING for trial in trials) or study.is_searched():
        return trials
    return [
        replace(trial, status=TrialStatus.CANCELLED) if trial.status is TrialStatus.RUNNING else trial
        for trial in trials
    ]


def unfinished(study: StudyFolder) -> str:
    """That a search is still running or can be resumed, in a sentence; empty if it is complete."""
    state = SearchState.of(study)
    if state.stage is Stage.COMPLETE:
        return ""
    if state.stage is Stage.RUNNING:
        return "The search is still running: these are the figures so far."
    if state.stage is Stage.UNKNOWN:
        return f"The search is {state}: these are the figures so far."
    numbers = [trial.number for trial in standing(study) if trial.status is TrialStatus.CANCELLED]
    during = f" during trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}" if numbers else ""
    early = state.reason if state.stage is Stage.ENDED_EARLY and state.reason != "interrupted" else ""
    ending_text = f"ended early ({early})" if early else "was interrupted"
    return f"The search {ending_text}{during}; to go on: {search_command()} --resume {shlex.quote(str(study.path))}"


def leaderboard(study: StudyFolder, trials: Iterable[StoredTrial] | None = None) -> pd.DataFrame:
    """A row per trial and baseline and one for chance, best first by the study's metric at each trial's best report.

    Columns: rank, name, kind (trial, baseline, chance), status (trials only: completed, pruned, failed, interrupted,
    running), epoch, the metrics, train_loss, val_loss, seconds, and one for each searched knob. Trials that were
    stopped before a report on all lists have no rank; then there is also a column scored_share. Trials without a report
    come last, as do baselines that were left out, which have that as their status, and a column reason.

    Args:
        trials: the study's trials, if read already.
    """
    manifest = study.read_manifest()
    metric, knobs = manifest["metric"], manifest["knobs"]
    rows = [_trial_row(trial, metric, knobs) for trial in standing(study, trials)]
    for name, figures in study.references().items():
        kind = "chance" if name == "chance" else "baseline"
        losses = {} if kind == "chance" else study.baseline(name).read_figures()
        shown_losses = {column: figure for column, figure in losses.items() if column in _COLUMNS}
        rows.append({"name": name, "kind": kind, "status": None, **shown_losses, **figures})
    for name, reason in study.left_out_baselines().items():
        rows.append({"name": name, "kind": "baseline", "status": LEFT_OUT, REASON: reason})
    columns = [*_COLUMNS, *(column for column in (SCORED_SHARE, REASON) if any(column in row for row in rows)), *knobs]
    return ranked(pd.DataFrame(rows, columns=columns), metric).convert_dtypes()


def ranked(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Sort by a metric, best first, and number the ranks; trials on a part of the lists come after all others, without
    a rank, unless there are no others, and rows without the metric last."""
    partial = table[SCORED_SHARE].lt(1).fillna(False) if SCORED_SHARE in table else pd.Series(False, table.index)
    if not ((table["kind"] == "trial") & table[metric].notna() & ~partial).any():
        partial = pd.Series(False, table.index)
    better = table[metric] * (1 if metric.endswith("_loss") else -1)
    order = table.assign(_last=table[metric].isna(), _partial=partial.astype(bool), _better=better)
    order = order.sort_values(["_last", "_partial", "_better"], kind="stable", na_position="last")
    has_rank = ~(order["_last"] | order["_partial"])
    order["rank"] = pd.array([i + 1 if ranks else None for i, ranks in enumerate(has_rank)], dtype="Int64")
    return order.drop(columns=["_last", "_partial", "_better"]).reset_index(drop=True)


def left_out_baselines(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(name, reason) of each baseline of a leaderboard that was not scored."""
    if REASON not in table:
        return []
    left_out = table[table["status"] == LEFT_OUT]
    return list(zip(left_out["name"], left_out[REASON], strict=True))


def pretty(table: pd.DataFrame, knobs: list[str]) -> Leaderboard:
    """The leaderboard for a terminal."""
    return Leaderboard(table, tuple(knobs))


@dataclass(frozen=True)
class Leaderboard:
    """Renders the first hundred rows, all baselines, and the most important columns that fit; names the others."""

    table: pd.DataFrame
    knobs: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns, left_out = [*_SHOWN, *self.knobs], []
        for column in [*_FIRST_TO_GO, *reversed(self.knobs), "status", "rank"]:
            view = self._view(columns)
            if Measurement.get(console, options.update(max_width=10_000), view).maximum <= options.max_width:
                break
            columns.remove(column)
            left_out.append(column)
        yield self._view(columns)
        if SCORED_SHARE in self.table and self.table[SCORED_SHARE].notna().any():
            share = self.table[SCORED_SHARE].min()
            whole = self.table[(self.table["kind"] == "trial") & self.table[SCORED_SHARE].isna()]
            which = "trials without a rank are" if whole["ndcg_at_10"].notna().any() else "all trials are"
            yield Text(f"{which} scored on {share:.0%} of the lists so far", style="dim")
        for name, reason in left_out_baselines(self.table):
            yield Text(plain(masked(f"{name} is left out: {reason}")), style="dim")
        if more := len(self.table) - len(self._rows):
            yield Text(f"{more} more trials below; leaderboard.csv has every row", style="dim")
        if left_out:
            names = ", ".join(PRETTY.get(column, column) for column in left_out)
            yield Text(f"too narrow for: {names}; leaderboard.csv has every column", style="dim")

    @property
    def _rows(self) -> pd.DataFrame:
        return self.table[(self.table["kind"] != "trial") | (np.arange(len(self.table)) < _MOST_ROWS)]

    def _view(self, columns: Sequence[str]) -> Table:
        view = Table(header_style="bold", box=None, pad_edge=False)
        for column in columns:
            head, name = PRETTY.get(column, column), column == "name"
            is_text = column in ("name", "status", "model")
            view.add_column(
                head,
                justify="left" if is_text else "right",
                no_wrap=not name,  # if even a few columns don't fit, names wrap
                overflow="fold",
                min_width=len(head),
            )
        for row in self._rows.to_dict("records"):
            style = None if row["kind"] == "trial" else "dim"
            view.add_row(*(Text(plain(masked(_cell(column, row[column])))) for column in columns), style=style)
        return view


def _trial_row(trial: StoredTrial, metric: str, knobs: list[str]) -> dict[str, Any]:
    figures = trial.best(metric) or {}
    row = {"name": trial.name, "kind": "trial", "status": trial.status.value}
    row |= {knob: trial.values[knob] for knob in knobs}
    row |= {column: figures[column] for column in (*_COLUMNS, SCORED_SHARE) if column in figures}
    if trial.reports:
        row["seconds"] = trial.reports[-1]["seconds"]
    return row


def _cell(column: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    if column == "epoch":
        return f"{value:g}"
    if column in ("seconds", "learning_rate"):
        return f"{value:.0f}" if column == "seconds" else f"{value:.1e}"
    if not isinstance(value, float) or value.is_integer():
        return f"{value}"
    return f"{value:.1e}" if column not in _COLUMNS and abs(value) < 0.01 else f"{value:.3f}"  # a knob's are no zeros
