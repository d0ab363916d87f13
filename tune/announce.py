"""A study, its folder and its cluster → what the user reads before and after the search."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from reranker.data import RerankingData
from reranker.secrets import masked
from results.study_folder import StoredTrial, StudyFolder, TrialStatus
from tune.cluster import Cluster
from tune.cost import estimate_cost
from tune.preflight import ModelCheck, describe_compute, describe_memory
from tune.schedulers import rungs
from tune.search_space import Study
from tune.tracking import page_address, ui_command

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
    marks = ", ".join(f"{mark:g}" for mark in rungs(study)) or "none"
    where = f"epochs {marks}" if study.clock == "epoch" else f"{marks} % of each trial's own epochs"
    if kind == "median":
        return f"a trial below the median of the others is stopped, from {where.split(',')[0]} on"
    name = "ASHA" if kind == "asha" else "asynchronous Hyperband"
    slow = " and who is catching up" if study.settings.asha.pace else ""
    return f"{name} compares trials at {where} and keeps the best 1/{reduction:g}{slow}"


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
    return shlex.join([sys.executable, str(Path(__file__).with_name("run_search.py")), "--resume", str(folder.path)])


def how_to_resume(folder: StudyFolder, ending: str) -> str:
    """Why the search ended before its last trial, and the command that goes on with it."""
    return f"ended early: {ending}. To go on:\n               {resume_command(folder)}"


def where_it_is(folder: StudyFolder, tracking_uri: str, best: StoredTrial | None, trouble: str, page: str = "") -> str:
    """What failed, where the results are, and how to open them.

    Args:
        trouble: why MLflow does not have everything; empty where it does.
        page: the leaderboard's in MLflow, without the server's address.
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
            f"               {shlex.join([sys.executable, '-m', 'tune.tracking', str(folder.path)])}",
        ]
    lines.append(f"MLflow:        {masked(ui_command(tracking_uri))}")
    if page:
        lines.append(f"               then {page_address(tracking_uri, page)}")
    return "\n".join(lines)
