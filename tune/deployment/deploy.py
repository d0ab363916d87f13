"""A finished search → the refitted winner in MLflow's registry, and the commands that rank with it."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reranker.command_line.redaction import masked
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.errors import EnvironmentFault
from reranker.training.training_status import TrainingStatus
from results.reporting.write_report import write_report
from results.study.adapter_usage import keep_registered, rank_command, serve_command, usable
from results.study.study_folder import StudyFolder
from tune.deployment.model_registry import register
from tune.deployment.refit import Recipe, refit
from tune.execution.worker_group import TrialResources
from tune.mlflow_tracking.tracker import deliver

_STATUS_S = 30.0  # between two lines of how far an epoch is


def refit_and_register(
    data: RerankingData,
    study: StudyFolder,
    resources: TrialResources,
    *,
    name: str,
    tracking_uri: str,
    say: Callable[[str], None],
) -> str:
    """Refit the winner and register the adapter; needs a running Ray, and the study in the store.

    Args:
        data: the search's.
        resources: of one of its trials.
        name: of the registered model.
        say: told how the refit goes.

    Returns:
        Where the adapter is, and what to type to use it. A store that refuses costs the registration alone.

    Raises:
        InputError, TrainingError: the refit failed.
    """
    recipe = Recipe.of_winner(study)
    say(f"refit of trial {recipe.trial} on training and validation items, {recipe.epochs:g} epochs")

    def tell(figures: dict[str, Any]) -> None:
        shown = f"loss {figures['train_loss']:.3f}, {figures['seconds']:.0f} s"
        say(f"refit epoch {figures['epoch']:g}/{recipe.epochs:g}: {shown}")

    said = time.monotonic()

    def heard(training_status: TrainingStatus) -> None:
        nonlocal said
        if time.monotonic() - said > _STATUS_S:
            said = time.monotonic()
            say(f"refit {training_status.text(recipe.epochs)}")

    folder = refit(data, study, resources, tell, heard)
    example = example_of(data, folder.read_config())
    lines = [f"refit:         {folder.adapter}"]
    try:
        model = f"models:/{name}/{register(study, folder, example, name=name, tracking_uri=tracking_uri)}"
    except EnvironmentFault as fault:
        lines.append(f"not registered: {fault}; the refit is kept; --resume with --refit registers it")
        lines.append(_rank(study, recipe.trial, example))
    else:
        keep_registered(study, model)
        lines += [f"registered:    {model}", _rank(study, recipe.trial, example)]
        lines += _serve(study, model, tracking_uri, example)
    write_report(study)  # which now leads to the refit
    if trouble := deliver(study, tracking_uri):
        lines.append(f"MLflow lacks the new report ({trouble}); to deliver it:")
        lines.append(f"               {sys.executable} -m tune.tracking {shlex.quote(str(study.path))}")
    return "\n".join(lines)


def example_of(data: RerankingData, config: TrialConfig) -> dict[str, list[str]]:
    """A question in titles: the first validation list, with as much history as a prompt shows."""
    first, texts = data.validation(config)[0], data.item_texts(config)
    history = first.history[-config.history_length :]
    return {"history": [texts[i] for i in history], "candidates": [texts[i] for i in first.candidates]}


def _rank(study: StudyFolder, trial: int, example: dict[str, list[str]]) -> str:
    titles = {name: shlex.join(texts[-3:]) for name, texts in example.items()}
    question = f"--history {titles['history']} --candidates {titles['candidates']}"
    return f"rank a list:   {rank_command(usable(study, trial), question, shlex.quote(sys.executable))}"


def _serve(study: StudyFolder, model: str, tracking_uri: str, example: dict[str, list[str]]) -> list[str]:
    record = {name: texts[-3:] for name, texts in example.items()}
    body = shlex.quote(json.dumps({"dataframe_records": [record]}, ensure_ascii=False))
    programs = shlex.quote(str(Path(sys.executable).parent))
    return [
        f"load it:       mlflow.set_tracking_uri({masked(tracking_uri)!r}); mlflow.pyfunc.load_model({model!r})",
        f"serve it:      {masked(serve_command(study, model, programs))}",
        f"serve many:    {shlex.quote(sys.executable)} -m tune.serve {shlex.quote(str(study.refit.path))}",
        f"ask it:        curl -H 'Content-Type: application/json' -d {body} http://127.0.0.1:5001/invocations",
    ]
