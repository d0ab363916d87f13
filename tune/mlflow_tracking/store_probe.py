"""Whether MLflow can keep runs here: a store of its own is made, written and read, and thrown away."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlflow.tracking import MlflowClient

from tune.mlflow_tracking.trials_to_runs import quieten


def try_store() -> float:
    """A metric that was written to a store on this disk, as it comes back.

    Raises:
        Exception: of MLflow's, whatever it is.
    """
    quieten()
    with tempfile.TemporaryDirectory(prefix="reranker-") as folder:
        client = MlflowClient(f"sqlite:///{Path(folder) / 'mlflow.db'}")
        run = client.create_run(client.create_experiment("doctor", artifact_location=folder))
        client.log_metric(run.info.run_id, "written", 1.0)
        return float(client.get_run(run.info.run_id).data.metrics["written"])
