"""A study, its folder and its cluster → what the user reads before and after the search."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from reranker.command_line.redaction import masked
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder
from tune.cluster.shipped_code import SUBMITTED_TO
from tune.execution.ray_cluster import Cluster
from tune.mlflow_tracking.store_address import ui_command
from tune.other_trackers.chosen_trackers import where_to_look as in_other_trackers
from tune.study_file.copy_address import child_address
from tune.study_file.study import Study

_ENDED = (TrialStatus.COMPLETED, TrialStatus.PRUNED, TrialStatus.FAILED)


def goes_on(study: Study, folder: StudyFolder, replicate: int, top: int) -> str:
    """What is left of a study that was begun before, instead of its plan."""
    ended = sum(folder.read_status(number)["status"] in _ENDED for number in folder.numbers())
    line = f"study {folder.name} goes on: {ended} of {max(ended, study.settings.trials)} trials have ended"
    if replicate:
        seeds = f"{replicate} other seed{'s' * (replicate > 1)}"
        line += f"; then the best {f'{top} ' if top > 1 else ''}again with {seeds}"
    return line


def where_to_look(
    folder: StudyFolder, running: Cluster, tracking_uri: str, trackers: Sequence[str] = (), copy_to: object = None
) -> str:
    """Where to watch the search, in commands to type.

    Args:
        copy_to: where the study's copy is kept, if it is.
    """
    token = f"  (asks for a token, which this prints: {_ray()} get-auth-token)" if running.token else ""
    return "\n".join(
        [
            f"folder:        {folder.path}",
            *([f"copy:          {masked(child_address(str(copy_to), folder.path.name))}"] if copy_to else []),
            f"live report:   {shlex.join([sys.executable, '-m', 'results.report', str(folder.path), '--live'])}",
            f"Ray dashboard: {running.dashboard or 'none'}{token if running.dashboard else ''}",
            f"Ray's logs:    {running.logs}",
            f"MLflow:        {masked(ui_command(tracking_uri))}",
            *in_other_trackers(folder, trackers),
            "",
        ]
    )


def _ray() -> str:
    """Ray's own command, which need not be on the path."""
    program = Path(sys.executable).with_name("ray")
    return shlex.quote(str(program)) if program.exists() else f"{shlex.quote(sys.executable)} -m ray.scripts.scripts"


def resume_command(folder: StudyFolder) -> str:
    """What to type to go on with the study; where a job searches, from wherever it was submitted."""
    if address := os.environ.get(SUBMITTED_TO):
        runs, name = str(folder.path.parent), folder.path.name
        return shlex.join(["reranker-tuner", "search", "--submit", address, "--runs", runs, "--resume", name])
    return shlex.join([sys.executable, str(Path(__file__).parents[1] / "run_search.py"), "--resume", str(folder.path)])


def how_to_resume(folder: StudyFolder, ending: str) -> str:
    """Why the search ended before its last trial, and the command that goes on with it."""
    raised = next((f" --set study.{name}=N" for name in ("patience", "max_failures") if f"({name})" in ending), "")
    how = "To go on, with a higher limit" if raised else "To go on"
    return f"ended early: {ending}. {how}:\n               {resume_command(folder)}{raised}"


def where_the_copy_is(folder: StudyFolder, name: str, trouble: str) -> str:
    """What the study's copy lacks, and the command that brings it up; that it has everything where it does."""
    if not trouble:
        return f"{name} has everything"
    command = shlex.join([sys.executable, "-m", "tune.tracking", str(folder.path)])
    return f"{name} does not have everything ({masked(trouble)}); nothing is lost. To bring it up:\n               {command}"


def where_it_is(
    folder: StudyFolder,
    tracking_uri: str,
    best: StoredTrial | None,
    troubles: Mapping[str, str],
    link: str = "",
    *,
    trackers: Sequence[str] = (),
) -> str:
    """What failed, where the results are, and how to open them.

    Args:
        troubles: by tracker, why it does not have everything.
        link: the leaderboard's page in MLflow, once its server runs.
        trackers: that the study names.
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
    for tracker, trouble in troubles.items():
        lines += [
            f"{tracker} does not have everything ({masked(trouble)}); nothing is lost. To deliver it:",
            f"               {shlex.join([sys.executable, '-m', 'tune.tracking', str(folder.path)])}",
        ]
    lines.append(f"MLflow:        {masked(ui_command(tracking_uri))}")
    if link:
        lines.append(f"               then {link}")
    lines += in_other_trackers(folder, trackers)
    return "\n".join(lines)
