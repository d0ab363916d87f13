"""A study, its folder and its cluster → what the user reads before and after the search."""

from __future__ import annotations

import sys
from pathlib import Path

from reranker.data import RerankingData
from results.study_folder import StoredTrial, StudyFolder, TrialStatus
from tune.cluster import Cluster
from tune.cost import estimate_cost
from tune.preflight import ModelCheck, describe_compute, describe_memory
from tune.schedulers import rungs
from tune.search_space import Study
from tune.tracking import ui_command


def plan(study: Study, data: RerankingData | None, checks: list[ModelCheck]) -> str:
    """What will be searched, on what, and what it takes; without `data` where they are not here yet."""
    config = study.base()
    lines = [
        f"study {study.name}: {study.settings.trials} trials by {study.metric}, searching {', '.join(study.knobs)}",
        f"  sampler {study.settings.sampler}, {_early_stopping(study)}",
        data.describe(config) if data else f"data: {study.data.source}, not here yet, fetched when the search begins",
        f"cost: {estimate_cost(study)}",
        describe_compute(study),
        *describe_memory(study, checks),
    ]
    return "\n".join(lines)


def _early_stopping(study: Study) -> str:
    kind, reduction = study.settings.scheduler, study.settings.asha.reduction
    if kind == "none":
        return "no trial is stopped early"
    marks = [f"{mark:g}" for mark in rungs(study)]
    if not marks:
        return "no trial is stopped early, since all are as short as the first comparison"
    by_epoch = study.clock == "epoch"
    if kind == "median":
        first = f"epoch {marks[0]}" if by_epoch else f"{marks[0]} % of its epochs"
        return f"from {first} on, a trial below the median of the others is stopped"
    listed = " and ".join(filter(None, [", ".join(marks[:-1]), marks[-1]]))
    where = f"epoch{'s' * (len(marks) > 1)} {listed}" if by_epoch else f"{listed} % of its epochs"
    name = "ASHA" if kind == "asha" else "asynchronous Hyperband"
    best = {2: "half", 3: "third", 4: "quarter"}.get(reduction, f"1/{reduction:g}")
    slow = ", unless it is catching up" if study.settings.asha.pace else ""
    return f"{name} compares trials after {where}, and stops each that is not among the best {best}{slow}"


def where_to_look(folder: StudyFolder, running: Cluster, tracking_uri: str) -> str:
    """Where to watch the search, in commands to type."""
    token = "" if running.joined else "  (asks for a token: `ray get-auth-token` prints it)"
    return "\n".join(
        [
            f"folder:        {folder.path}",
            f"Ray dashboard: {running.dashboard or 'none'}{token if running.dashboard else ''}",
            f"Ray's logs:    {running.logs}",
            f"MLflow:        {ui_command(tracking_uri)}",
            "",
        ]
    )


def how_to_resume(folder: StudyFolder, ending: str) -> str:
    """Why the search ended before its last trial, and the command that goes on with it."""
    script = Path(__file__).with_name("run_search.py")
    raised = next((f" --set study.{name}=N" for name in ("patience", "max_failures") if f"({name})" in ending), "")
    how = "To go on, with a higher limit" if raised else "To go on"
    return f"ended early: {ending}. {how}:\n               {sys.executable} {script} --resume {folder.path}{raised}"


def where_it_is(folder: StudyFolder, tracking_uri: str, best: StoredTrial | None, trouble: str) -> str:
    """What failed, where the results are, and how to open them."""
    lines = [
        "",
        *(
            f"trial {trial.number} failed: {trial.cause}"
            for trial in folder.trials()
            if trial.status is TrialStatus.FAILED
        ),
        f"leaderboard:   {folder.leaderboard}",
    ]
    if best is not None:
        lines += [f"adapter:       {folder.trial(best.number).adapter}", f"configuration: {folder.best_config}"]
    lines.append(f"report:        {folder.report}")
    if trouble:
        lines += [
            f"MLflow does not have everything ({trouble}); nothing is lost. To deliver it:",
            f"               {sys.executable} -m tune.tracking {folder.path}",
        ]
    return "\n".join([*lines, f"MLflow:        {ui_command(tracking_uri)}"])
