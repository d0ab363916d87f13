"""Reports of trials, and baselines → the figures that every tracker draws, each with its place on the clock."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reranker.metrics import METRIC_NAMES
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder

APPLIED = "applied/"  # before the names of what a trial was trained with, which are parameters
STEP = "step/"  # before the names of what is measured between two reports
FINAL = (TrialStatus.COMPLETED, TrialStatus.PRUNED, TrialStatus.FAILED)  # an interrupted one may go on
_LEADERBOARD = (*METRIC_NAMES, "train_loss", "val_loss")
_POSITION = ("report", "epoch")  # where a report stands, which its step says


@dataclass(frozen=True)
class Point:
    """A report of a trial.

    Attributes:
        number: of the report, from 1.
        step: see `step_of`.
        figures: of this report.
        best: of the best report so far, as the leaderboard has them.
    """

    number: int
    step: int
    epoch: float
    figures: dict[str, float]
    best: dict[str, float]


def points(trial: StoredTrial, searched_by: str) -> Iterator[Point]:
    """Its reports, in order."""
    for number, figures in enumerate(trial.reports, start=1):
        best = replace(trial, reports=trial.reports[:number]).best(searched_by) or figures
        yield Point(
            number, step_of(figures), figures["epoch"], measured(figures, searched_by), of_best(best, searched_by)
        )


def between_reports(study: StudyFolder, number: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Loss and speed between two reports, by the examples that were trained."""
    for line in study.trial(number).read_steps():
        yield line["examples"], {f"{STEP}{name}": value for name, value in line.items() if name != "examples"}


def measured(figures: Mapping[str, Any], searched_by: str) -> dict[str, float]:
    """A report's figures that are metrics, the one that is searched by first."""
    names = sorted(figures, key=lambda name: name != searched_by)
    return {
        name: figures[name]
        for name in names
        if name not in _POSITION and not name.startswith(APPLIED) and is_number(figures[name])
    }


def leading(figures: Mapping[str, Any], searched_by: str) -> dict[str, float]:
    """What the leaderboard has of a report or a baseline."""
    return {f"best/{name}": figures[name] for name in dict.fromkeys([searched_by, *_LEADERBOARD]) if name in figures}


def of_best(figures: Mapping[str, Any], searched_by: str) -> dict[str, float]:
    """What the leaderboard has of a trial's best report, and where that stands."""
    return {**leading(figures, searched_by), "epoch_of_best": figures["epoch"]}


def applied(trial: StoredTrial) -> dict[str, object]:
    """What it was really trained with. Nothing of a trial that was cut short, since it may go on."""
    last = trial.reports[-1] if trial.reports and trial.status is not TrialStatus.CANCELLED else {}
    return {name: value for name, value in last.items() if name.startswith(APPLIED)}


def of_rankers(study: StudyFolder) -> dict[str, dict[str, float]]:
    """The figures of chance and of each baseline, by its name."""
    references, figures = study.references(), {}
    for name in ["chance", *study.baselines()]:
        more = {} if name == "chance" else study.baseline(name).read_figures()
        figures[name] = {**references[name], **{key: value for key, value in more.items() if is_number(value)}}
    return figures


def step_of(figures: Mapping[str, Any]) -> int:
    """The clock of trackers' charts: the examples that were trained; epochs where they were not counted."""
    return int(figures.get("applied/examples", figures["epoch"]))


def last_step(trial: StoredTrial) -> int:
    """Where the trial's curve will end, as far as its first report tells."""
    if not trial.reports:
        return 1
    first, last = trial.reports[0], trial.reports[-1]
    whole = int(step_of(first) * trial.values["epochs"] / first["epoch"])
    return max(step_of(last), whole)


def is_number(value: Any) -> bool:
    """Whether a chart can draw it."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def finite(values: Mapping[str, object]) -> dict[str, object]:
    """With None for what JSON has no number for."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
