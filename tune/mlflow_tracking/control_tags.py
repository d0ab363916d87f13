"""The tag `control` of a study's runs, set in MLflow's pages → a request to the running search, and its answer as a tag."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from reranker.errors import RerankerError
from tune.mlflow_tracking import mlflow_pages

CONTROL, ANSWER = "control", "control.answer"
_OF_A_TRIAL, _OF_ALL = ("stop", "keep"), ("pause", "resume")


class Ask(Protocol):
    """Hands requests to a running search."""

    def __call__(self, act: str, *, trial: int | None, by: str) -> str:
        """The search's answer to one.

        Raises:
            RerankerError: it refuses, or does not answer.
        """


def obey(client: MlflowClient, experiment: str, parent: str, ask: Ask) -> None:
    """Take up each request: `stop` or `keep` on a trial's run, `pause` or `resume` on any run of the study."""
    query = f"tags.{mlflow_pages.PARENT} = '{parent}' and tags.{CONTROL} != ''"
    for run in [client.get_run(parent), *client.search_runs([experiment], query)]:
        if act := run.data.tags.get(CONTROL, "").strip().lower():
            answer = _answer(run, act, ask)
            client.set_tag(run.info.run_id, ANSWER, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {act}: {answer}")
            client.delete_tag(run.info.run_id, CONTROL)


def _answer(run: Run, act: str, ask: Callable[..., str]) -> str:
    trial = run.data.tags.get("trial")
    if act in _OF_A_TRIAL and trial is None:
        return f"refused: {act} must be set on the run of a trial"
    if act not in (*_OF_A_TRIAL, *_OF_ALL):
        return f"refused: {CONTROL} must be one of {', '.join((*_OF_A_TRIAL, *_OF_ALL))}"
    try:
        return ask(act, trial=int(trial) if trial is not None and act in _OF_A_TRIAL else None, by="MLflow")
    except RerankerError as error:
        return f"refused: {error}"
