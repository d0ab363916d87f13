"""The trackers that a study names besides MLflow → whether they can be used here, their threads, and where to look.

Their packages are imported by their own threads.
"""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from reranker.errors import EnvironmentFault
from results.study.study_folder import StudyFolder
from tune.mirroring.mirror_thread import LateMirror, Mirror, MirrorThread
from tune.other_trackers.tracker_files import events_file, tensorboard_folder, wandb_parent
from tune.other_trackers.wandb_account import wandb_mode

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}  # tracker → what it needs
_NAMES = {"jsonl": "The file of events", "tensorboard": "TensorBoard", "wandb": "Weights & Biases"}


def check_trackers(trackers: Iterable[str]) -> None:
    """
    Raises:
        EnvironmentFault: a package is missing, or W&B has no key.
    """
    for tracker in trackers:
        package = _PACKAGES.get(tracker)
        if package is not None and importlib.util.find_spec(package) is None:
            raise EnvironmentFault(
                f"study.trackers: {tracker} needs the package {package}: pip install 'reranker-tuner[{tracker}]'"
            )
        if tracker == "wandb":
            wandb_mode()


def threads_of(study: StudyFolder, trackers: Iterable[str]) -> list[MirrorThread]:
    """A thread for each tracker besides MLflow, in the order of the study file."""
    makers: dict[str, Callable[[StudyFolder], Mirror]] = {
        "jsonl": _json_lines,
        "tensorboard": _tensorboard,
        "wandb": _wandb,
    }
    return [
        MirrorThread(_NAMES[name], LateMirror(lambda make=makers[name]: make(study)))  # type: ignore[misc]
        for name in trackers
        if name in makers and not (name == "wandb" and wandb_mode() == "disabled")
    ]


def where_to_look(study: StudyFolder, trackers: Iterable[str]) -> list[str]:
    """What to open, or to type, to see the study in its trackers besides MLflow, a line each."""
    lines = []
    for tracker in trackers:
        if tracker == "jsonl":
            lines.append(f"events:        {events_file(study)}")
        elif tracker == "tensorboard":
            command = [_program("tensorboard"), "--logdir", str(tensorboard_folder(study))]
            lines.append(f"TensorBoard:   {shlex.join(command)}")
        elif tracker == "wandb":
            lines.append(f"W&B:           {_of_wandb(study)}")
    return lines


def _of_wandb(study: StudyFolder) -> str:
    match wandb_mode():
        case "online":
            return f"the project {study.name} of your account"
        case "offline":
            runs = shlex.quote(str(wandb_parent(study) / "wandb"))
            return f"offline; to send it: {shlex.quote(_program('wandb'))} sync {runs}/offline-run-*"
        case "disabled":
            return "switched off by WANDB_MODE"


def _program(name: str) -> str:
    """A package's own command, which need not be on the path."""
    program = Path(sys.executable).with_name(name)
    return str(program) if program.exists() else name


def _json_lines(study: StudyFolder) -> Mirror:
    from tune.other_trackers.json_lines import JsonLines

    return JsonLines(study)


def _tensorboard(study: StudyFolder) -> Mirror:
    from tune.other_trackers.tensorboard_runs import TensorBoardRuns  # takes seconds

    return TensorBoardRuns(study)


def _wandb(study: StudyFolder) -> Mirror:
    from tune.other_trackers.wandb_runs import WandbRuns  # takes seconds

    return WandbRuns(study, wandb_mode())
