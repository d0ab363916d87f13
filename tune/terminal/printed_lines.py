"""A study, its folder and its cluster → what the user reads before and after the search."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from reranker.command_line.redaction import masked
from reranker.data.assemble import RerankingData
from results.study.study_folder import StoredTrial, StudyFolder, TrialStatus
from tune.execution.ray_cluster import Cluster
from tune.mlflow_tracking.trials_to_runs import ui_command
from tune.searching.cost_estimate import estimate_cost
from tune.searching.schedulers import rungs
from tune.study_file.preflight import ModelCheck, describe_compute, describe_memory
from tune.study_file.study import Study

_ENDED = (TrialStatus.COMPLETED, TrialStatus.PRUNED, TrialStatus.FAILED)


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
    by_epoch = study.clock == "epoch"
    marks = [f"{mark:g}" if by_epoch else f"{mark:.0f}" for mark in rungs(study)]
    if not marks:
        return "no trial is stopped early, since all are as short as the first comparison"
    if kind == "median":
        first = f"epoch {marks[0]}" if by_epoch else f"{marks[0]} % of its epochs"
        return f"from {first} on, a trial below the median of the others is stopped"
    listed = " and ".join(filter(None, [", ".join(marks[:-1]), marks[-1]]))
    where = f"epoch{'s' * (len(marks) > 1)} {listed}" if by_epoch else f"{listed} % of its epochs"
    name = "ASHA" if kind == "asha" else "asynchronous Hyperband"
    best = {2: "half", 3: "third", 4: "quarter"}.get(reduction, f"1/{reduction:g}")
    slow = ", unless it is catching up" if study.settings.asha.pace else ""
    return f"{name} compares trials after {where}, and stops each that is not among the best {best}{slow}"


def goes_on(study: Study, folder: StudyFolder, replicate: int, top: int) -> str:
    """What is left of a study that was begun before, instead of its plan."""
    ended = sum(folder.read_status(number)["status"] in _ENDED for number in folder.numbers())
    line = f"study {folder.name} goes on: {ended} of {max(ended, study.settings.trials)} trials have ended"
    if replicate:
        seeds = f"{replicate} other seed{'s' * (replicate > 1)}"
        line += f"; then the best {f'{top} ' if top > 1 else ''}again with {seeds}"
    return line


def where_to_look(folder: StudyFolder, running: Cluster, tracking_uri: str) -> str:
    """Where to watch the search, in commands to type."""
    token = f"  (asks for a token, which this prints: {_ray()} get-auth-token)" if running.token else ""
    return "\n".join(
        [
            f"folder:        {folder.path}",
            f"Ray dashboard: {running.dashboard or 'none'}{token if running.dashboard else ''}",
            f"Ray's logs:    {running.logs}",
            f"MLflow:        {masked(ui_command(tracking_uri))}",
            "",
        ]
    )


def _ray() -> str:
    """Ray's own command, which need not be on the path."""
    program = Path(sys.executable).with_name("ray")
    return shlex.quote(str(program)) if program.exists() else f"{shlex.quote(sys.executable)} -m ray.scripts.scripts"


def resume_command(folder: StudyFolder) -> str:
    return shlex.join([sys.executable, str(Path(__file__).parents[1] / "run_search.py"), "--resume", str(folder.path)])


def how_to_resume(folder: StudyFolder, ending: str) -> str:
    """Why the search ended before its last trial, and the command that goes on with it."""
    raised = next((f" --set study.{name}=N" for name in ("patience", "max_failures") if f"({name})" in ending), "")
    how = "To go on, with a higher limit" if raised else "To go on"
    return f"ended early: {ending}. {how}:\n               {resume_command(folder)}{raised}"


def where_it_is(folder: StudyFolder, tracking_uri: str, best: StoredTrial | None, trouble: str, link: str = "") -> str:
    """What failed, where the results are, and how to open them.

    Args:
        trouble: why MLflow does not have everything; empty where it does.
        link: the leaderboard's page in MLflow, once its server runs.
    """
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
            f"MLflow does not have everything ({masked(trouble)}); nothing is lost. To deliver it:",
            f"               {shlex.join([sys.executable, '-m', 'tune.mlflow_tracking.trials_to_runs', str(folder.path)])}",
        ]
    lines.append(f"MLflow:        {masked(ui_command(tracking_uri))}")
    if link:
        lines.append(f"               then {link}")
    return "\n".join(lines)
