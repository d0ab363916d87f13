"""A study's stored trials → its leaderboard, as a table of figures and for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from rich.table import Table

from reranker.metrics import METRIC_NAMES
from results.study_folder import StoredTrial, StudyFolder, TrialStatus

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
_SHOWN = ["rank", "name", "status", "epoch", "recall_at_1", "ndcg_at_10", "train_loss", "val_loss", "seconds"]


def leaderboard(study: StudyFolder, trials: Iterable[StoredTrial] | None = None) -> pd.DataFrame:
    """One row a trial, a baseline, and chance, best first by the study's metric at each trial's best epoch.

    `trials` are the study's, where they were read already.

    Columns: rank, name, kind (trial, baseline, chance), status, epoch, the metrics, train_loss, val_loss, seconds,
    then a column for each searched knob. Trials without a finished epoch come last and have no rank.
    """
    manifest = study.read_manifest()
    metric, knobs = manifest["metric"], manifest["knobs"]
    rows = [_trial_row(trial, metric, knobs) for trial in (study.trials() if trials is None else trials)]
    for name, figures in study.references().items():
        kind = "chance" if name == "chance" else "baseline"
        losses = {} if kind == "chance" else study.baseline(name).read_figures()
        known = {column: figure for column, figure in losses.items() if column in _COLUMNS}
        rows.append({"name": name, "kind": kind, "status": "completed", **known, **figures})
    table = pd.DataFrame(rows, columns=[*_COLUMNS, *knobs])
    table = table.sort_values(metric, ascending=metric.endswith("_loss"), kind="stable", na_position="last")
    scored = table[metric].notna()
    table["rank"] = pd.array([i + 1 if ok else None for i, ok in enumerate(scored)], dtype="Int64")
    return table.convert_dtypes().reset_index(drop=True)


def pretty(table: pd.DataFrame, knobs: list[str]) -> Table:
    """The leaderboard for a terminal."""
    view = Table(header_style="bold", box=None, pad_edge=False)
    shown = [*_SHOWN, *knobs]
    for column in shown:
        words = column in ("name", "status", "model")
        view.add_column(PRETTY.get(column, column), justify="left" if words else "right", no_wrap=True)
    for row in table.to_dict("records"):
        style = None if row["kind"] == "trial" else "dim"
        view.add_row(*(_cell(column, row[column]) for column in shown), style=style)
    return view


def _trial_row(trial: StoredTrial, metric: str, knobs: list[str]) -> dict[str, Any]:
    figures = trial.best(metric) or {}
    stopped = trial.status is TrialStatus.CANCELLED  # with the search itself; in the table it counts as pruned
    status = TrialStatus.PRUNED if stopped else trial.status
    row = {"name": trial.name, "kind": "trial", "status": status.value}
    row |= {knob: trial.values[knob] for knob in knobs}
    row |= {column: figures[column] for column in _COLUMNS if column in figures}
    if trial.epochs:
        row["seconds"] = trial.epochs[-1]["seconds"]
    return row


def _cell(column: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    if column in ("seconds", "learning_rate"):
        return f"{value:.0f}" if column == "seconds" else f"{value:.1e}"
    return f"{value:.3f}" if isinstance(value, float) and not value.is_integer() else f"{value}"
