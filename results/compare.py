"""A study's stored trials → its leaderboard and a verdict in one sentence. `python -m results.compare STUDY`."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from reranker.errors import RerankerError
from reranker.metrics import METRIC_NAMES, FloatArray, per_list
from reranker.trial_folder import TrialFolder
from results.significance import Difference, differences, mean_interval, smallest_detectable
from results.study_folder import StoredTrial, StudyFolder, TrialStatus

RUNS = Path(__file__).resolve().parents[1] / "results" / "runs"
PRETTY = {"recall_at_1": "Recall@1", "ndcg_at_10": "NDCG@10", "train_loss": "train loss", "val_loss": "val. loss"}
_COMPARED = 40  # trials that are compared with each other, the best ones
_VAGUE = 0.05  # half a 95% interval of Recall@1, beyond which the verdict warns
_COLUMNS = ["rank", "name", "kind", "status", "epoch", *METRIC_NAMES, "train_loss", "val_loss", "seconds"]


def leaderboard(study: StudyFolder) -> pd.DataFrame:
    """One row a trial, a baseline, and chance, best first by the study's metric at each trial's best epoch.

    Columns: rank, name, kind (trial, baseline, chance), status, epoch, the metrics, train_loss, val_loss, seconds,
    then a column for each searched knob. Trials without a finished epoch come last and have no rank.
    """
    manifest = study.read_manifest()
    metric, knobs = manifest["metric"], manifest["knobs"]
    rows = [_trial_row(trial, metric, knobs) for trial in study.trials()]
    for name, figures in study.references().items():
        kind = "chance" if name == "chance" else "baseline"
        rows.append({"name": name, "kind": kind, "status": "completed", **figures})
    table = pd.DataFrame(rows, columns=[*_COLUMNS, *knobs])
    table = table.sort_values(metric, ascending=metric.endswith("_loss"), kind="stable", na_position="last")
    scored = table[metric].notna()
    table["rank"] = pd.array([i + 1 if ok else None for i, ok in enumerate(scored)], dtype="Int64")
    return table.convert_dtypes().reset_index(drop=True)


def winner(study: StudyFolder) -> StoredTrial | None:
    """The trial whose best epoch is the best of all, pruned ones included; None if no epoch was finished."""
    metric = study.read_manifest()["metric"]
    sign = -1 if metric.endswith("_loss") else 1
    scored = [(trial, figures) for trial in study.trials() if (figures := trial.best(metric)) is not None]
    return max(scored, key=lambda pair: sign * pair[1][metric])[0] if scored else None


def verdict(study: StudyFolder) -> str:
    """What the search found, in one sentence."""
    manifest = study.read_manifest()
    best = winner(study)
    figures = best.best(manifest["metric"]) if best else None
    if best is None or figures is None:
        return "No trial finished an epoch: there is nothing to compare."
    references = study.references()
    others = [f"{name} {row['recall_at_1']:.0%}" for name, row in references.items()]
    if manifest["best_reachable_recall_at_1"] is not None:
        others.append(f"best reachable {manifest['best_reachable_recall_at_1']:.0%}")
    lists = manifest["plan"]["validation_lists"]
    half_width = 1.96 * math.sqrt(max(figures["recall_at_1"] * (1 - figures["recall_at_1"]), 1 / lists) / lists)
    if half_width > _VAGUE:
        others[-1] += (
            f". With {lists} lists that is uncertain by ±{half_width:.0%}: too few to tell configurations apart"
        )
    return (
        f"The best trial (number {best.number}, epoch {figures['epoch']}) ranks the true item first for "
        f"{figures['recall_at_1']:.0%} of users; {', '.join(others)}."
    )


@dataclass(frozen=True)
class Comparison:
    """What a study's stored ranks prove, by the values of its metric for each user.

    Attributes:
        metric: the study's, or NDCG@10 where that is a loss.
        winner: the trial that is best.
        interval: of its mean, 95%.
        against: it and each baseline, whose p-values hold although it is the best of many.
        intervals: 95%, of the mean of each of these differences, for itself.
        alike: the trials that can't be told from it, itself among them, best first.
        cheapest: that of them with the smallest model, and then the shortest training.
        detectable: the difference to a baseline that so many users and trials can prove, with 80% power.
        users: how many lists there are.
    """

    metric: str
    winner: StoredTrial
    interval: tuple[float, float]
    against: dict[str, Difference]
    intervals: dict[str, tuple[float, float]]
    alike: list[StoredTrial]
    cheapest: StoredTrial
    detectable: float
    users: int


def compare(study: StudyFolder) -> Comparison | None:
    """Tests of every trial against every baseline, and of the best trials among each other; None without ranks.

    The best of many is good by luck as well: so every trial takes part in the family of comparisons, whether or not it won.
    """
    manifest = study.read_manifest()
    best = winner(study)
    if best is None or not study.trial(best.number).has_ranks:
        return None
    metric = "ndcg_at_10" if manifest["metric"].endswith("_loss") else manifest["metric"]
    trials = {trial.number: trial for trial in study.trials() if study.trial(trial.number).has_ranks}
    values = {number: _values(study.trial(number), metric) for number in trials}
    kept = study.baselines()
    baselines = {name: _values(study.baseline(name), metric) for name in kept}
    pairs = [(number, name) for number in values for name in baselines]
    found = dict(zip(pairs, differences([(values[n], baselines[b]) for n, b in pairs]), strict=True))
    ranked = sorted(values, key=lambda n: (n != best.number, -values[n].mean()))[:_COMPARED]
    among = list(itertools.combinations(ranked, 2))
    apart = dict(zip(among, differences([(values[a], values[b]) for a, b in among]), strict=True))
    alike = [n for n in ranked if n == best.number or not apart[best.number, n].proven]
    last = {n: trials[n].epochs[-1] for n in alike}
    cheapest = min(alike, key=lambda n: (last[n].get("applied/parameters", math.inf), last[n]["seconds"]))
    spreads = [float((values[best.number] - of_baseline).std(ddof=1)) for of_baseline in baselines.values()]
    return Comparison(
        metric,
        best,
        mean_interval(values[best.number]),
        {name: found[best.number, name] for name in baselines},
        {name: mean_interval(values[best.number] - of_baseline) for name, of_baseline in baselines.items()},
        [trials[n] for n in alike],
        trials[cheapest],
        smallest_detectable(max(spreads, default=0.0), len(values[best.number]), max(1, len(pairs))),
        len(values[best.number]),
    )


def findings(study: StudyFolder) -> list[str]:
    """What the comparison proves and what not, in sentences."""
    found = compare(study)
    if found is None:
        return []
    name = PRETTY.get(found.metric, found.metric)
    low, high = found.interval
    lines = [f"{name} of trial {found.winner.number}: {low:.3f} to {high:.3f} (95%, {found.users} users)."]
    for baseline, difference in found.against.items():
        low, high = found.intervals[baseline]
        proof = f"{difference.mean:+.3f} ({low:+.3f} to {high:+.3f}), {_p(difference.p)}"
        if not difference.proven:
            lines.append(f"Not told apart from {baseline}: {proof}.")
        else:
            lines.append(f"{'Better' if difference.mean > 0 else 'WORSE'} than {baseline}: {proof}.")
    lines.append(
        f"The p-values hold for all trials and baselines together; differences below {found.detectable:.3f} would "
        "often be missed."
    )
    others = [f"{trial.number}" for trial in found.alike[1:]]
    if not others:
        lines.append("It is better than each other trial.")
    else:
        same = found.cheapest.number == found.winner.number
        which = "it is the cheapest of them" if same else f"the cheapest of them is trial {found.cheapest.number}"
        lines.append(f"Not told apart from trial{'s' * (len(others) > 1)} {', '.join(others)}; {which}.")
    return lines


def _values(folder: TrialFolder, metric: str) -> FloatArray:
    """[users], in the order of their ids, so that what is paired belongs together."""
    users, ranks = folder.read_ranks()
    return per_list(ranks)[metric][np.argsort(users, kind="stable")]


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def pretty(table: pd.DataFrame, knobs: list[str]) -> Table:
    """The leaderboard for a terminal."""
    shown = [
        "rank",
        "name",
        "status",
        "epoch",
        "recall_at_1",
        "ndcg_at_10",
        "train_loss",
        "val_loss",
        "seconds",
        *knobs,
    ]
    view = Table(header_style="bold", box=None, pad_edge=False)
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m results.compare", description=__doc__)
    parser.add_argument("study", help="a study's name, or the path of its folder")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where studies are kept")
    args = parser.parse_args(argv)
    try:
        study = StudyFolder.open(args.runs, args.study)
    except RerankerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    table = leaderboard(study)
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(pretty(table, study.read_manifest()["knobs"]))
    console.print(f"\n{verdict(study)}")
    for finding in findings(study):
        console.print(f"  {finding}", highlight=False, soft_wrap=True)
    failed = [trial for trial in study.trials() if trial.status is TrialStatus.FAILED]
    for trial in failed:
        console.print(f"trial {trial.number} failed: {trial.cause}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
