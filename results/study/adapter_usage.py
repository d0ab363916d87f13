"""A study → the adapter to use, and the commands to rank with it and serve it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from reranker.storage.atomic_files import read_json, write_json
from results.study.study_folder import StudyFolder
from results.study.tracking_address import tracking_uri_of

_REGISTERED = "registered.json"
_TITLES = "--history TITLE TITLE --candidates TITLE TITLE TITLE"


@dataclass(frozen=True)
class Usable:
    """An adapter that is ready to use.

    Attributes:
        folder: the folder of the trial or the refit, for `reranker.rank --adapter`.
        refit_of: the trial that a refit repeats; None for a trial's own adapter.
        model: its URI in MLflow's registry; empty if it is not registered.
    """

    folder: Path
    refit_of: int | None
    model: str


def usable(study: StudyFolder, best: int) -> Usable:
    """The refit if there is one, of whichever trial; else the best trial's own adapter."""
    if not study.refit.adapter.exists():
        return Usable(study.trial(best).path, None, "")
    registered = study.refit.path / _REGISTERED
    model = str(read_json(registered, {"model": str})["model"]) if registered.exists() else ""
    recipe = read_json(study.refit.path / "recipe.json", {"trial": int})
    return Usable(study.refit.path, recipe["trial"], model)


def keep_registered(study: StudyFolder, model: str) -> None:
    """Store a refit's registry URI beside it."""
    write_json(study.refit.path / _REGISTERED, {"model": model})


def rank_command(adapter: Usable, titles: str = _TITLES, python: str = "python") -> str:
    """The command that ranks candidates with an adapter."""
    return f"{python} -m reranker.rank --adapter {shlex.quote(str(adapter.folder))} {titles}"


def serve_command(study: StudyFolder, model: str, programs: str = ".venv/bin") -> str:
    """The command that serves a registered model. MLflow starts uvicorn by name, so `programs` must be on the path."""
    store = shlex.quote(tracking_uri_of(study))
    return (
        f"PATH={programs}:$PATH MLFLOW_TRACKING_URI={store} "
        f"mlflow models serve --model-uri {shlex.quote(model)} --env-manager local --port 5001"
    )
