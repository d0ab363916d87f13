"""A trial's kept adapter → a model in MLflow's list of models, with the trial's best figures on the study's data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Dataset, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, ErrorCode
from mlflow.tracking import MlflowClient

from tune.mlflow_tracking.report_metrics import now_ms

_KIND = "LoRA adapter"


def add(
    client: MlflowClient,
    experiment: str,
    run: str,
    name: str,
    adapter: Path,
    *,
    params: Mapping[str, str],
    figures: Mapping[str, float],
    step: int,
    dataset: Dataset,
    is_first: bool = False,
) -> None:
    """Add the adapter of an ended trial, once. A server that knows no such models, as those before MLflow 3, goes without.

    Args:
        run: the trial's.
        adapter: where it is; the files stay there.
        figures: of the report that it is from, at `step`.
        is_first: that it was not added before is known.
    """
    try:
        query = f"source_run_id = '{run}'"
        made = [] if is_first else client.search_logged_models([experiment], filter_string=query, max_results=1)
        if made and made[0].status == LoggedModelStatus.READY:
            return
        # One that is not ready was begun when the store went down.
        model = (
            made[0]
            if made
            else client.create_logged_model(
                experiment,
                name=name,
                source_run_id=run,
                tags={"adapter": str(adapter)},
                params=dict(params),
                model_type=_KIND,
            )
        )
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(ENDPOINT_NOT_FOUND):
            return
        raise
    now, data = now_ms(), {"dataset_name": dataset.name, "dataset_digest": dataset.digest}
    points = [
        Metric(name, float(value), now, step, model_id=model.model_id, **data, run_id=run)
        for name, value in figures.items()
    ]
    client.log_batch(run, metrics=points)
    client.log_outputs(run, [LoggedModelOutput(model.model_id, step)])
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
