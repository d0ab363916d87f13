"""A study's mirror in a real MLflow store."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from reranker.config import TrialConfig
from reranker.metrics import METRIC_NAMES, chance
from reranker.trial_folder import write_text
from results.compare import leaderboard
from results.study_folder import StudyFolder, TrialStatus
from tune.tracking import StudyMirror, Tracker, default_uri


def figures(epoch: int, recall: float) -> dict[str, float]:
    return {
        **dict.fromkeys(METRIC_NAMES, recall), "epoch": epoch, "train_loss": 3 - recall, "val_loss": 3 - recall,
        "seconds": 10.0 * epoch, "tokens_per_second": 1e4, "peak_memory_mb": 500.0,
        "applied/learning_rate": 1e-2, "applied/optimizer_steps": 250 * epoch, "applied/examples": 4000 * epoch,
    }  # fmt: skip


@pytest.fixture
def study(tmp_path) -> StudyFolder:
    """Three trials: one whose middle epoch is the best, one stopped, one failed before its first epoch."""
    folder = StudyFolder.create(tmp_path, "films")
    folder.write_manifest(
        {
            "study_id": "abc", "metric": "ndcg_at_10", "knobs": ["learning_rate", "model"],
            "references": {"popularity": dict.fromkeys(METRIC_NAMES, 0.13), "chance": chance(20)},
            "best_reachable_recall_at_1": 0.49, "tags": {"data_fingerprint": "f00", "code_version": "0.1.0"},
            "plan": {"metric": "ndcg_at_10", "trials": 3, "validation_lists": 2000}, "tracking_uri": "",
        }
    )  # fmt: skip
    write_text(folder.study_file, "study: {name: films}\n")
    for number, scores in enumerate([[0.30, 0.41, 0.35], [0.12], []]):
        config = TrialConfig(model="demo-tiny", learning_rate=10.0**-number / 100, epochs=3)
        folder.start_trial(number, config.model_dump())
        for epoch, score in enumerate(scores, start=1):
            folder.trial(number).append_epoch(figures(epoch, score))
        folder.trial(number).adapter.mkdir()
        (folder.trial(number).adapter / "adapter_config.json").write_text("{}")
    folder.write_status(0, TrialStatus.COMPLETED)
    folder.write_status(1, TrialStatus.PRUNED)
    folder.write_status(2, TrialStatus.FAILED, cause="diverged in epoch 1")
    write_text(folder.leaderboard, leaderboard(folder).to_csv(index=False))
    return folder


def test_mlflow_gets_one_parent_and_a_nested_run_a_trial(study):
    uri = default_uri(study)
    StudyMirror(study, uri).bring_up(ended=True)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("films").experiment_id
    runs = {run.data.tags.get("trial", "study"): run for run in client.search_runs([experiment])}
    assert set(runs) == {"study", "0", "1", "2"}
    parent = runs["study"]
    assert {runs[t].data.tags["mlflow.parentRunId"] for t in "012"} == {parent.info.run_id}
    assert [runs[t].data.tags["status"] for t in "012"] == ["completed", "pruned", "failed"]
    assert runs["2"].data.tags["cause"] == "diverged in epoch 1"
    assert runs["0"].data.params["learning_rate"] == "0.01"
    assert runs["0"].data.params["applied/learning_rate"] == "0.01"
    assert runs["0"].data.params["applied/optimizer_steps"] == "750"
    assert runs["0"].data.metrics["best/recall_at_1"] == 0.41
    assert runs["0"].data.metrics["epoch_of_best"] == 2
    assert parent.data.metrics["chance/recall_at_1"] == 0.05
    history = client.get_metric_history(runs["0"].info.run_id, "recall_at_1")
    assert [(point.step, point.value) for point in history] == [(1, 0.30), (2, 0.41), (3, 0.35)]
    assert [artifact.path for artifact in client.list_artifacts(runs["0"].info.run_id)] == ["adapter"]
    assert parent.data.tags["mlflow.note.content"].startswith("The best trial")


def test_delivering_again_makes_no_second_run_and_no_second_point(study):
    uri = default_uri(study)
    StudyMirror(study, uri).bring_up()
    StudyMirror(study, uri).bring_up(ended=True)  # a new process knows nothing but the store
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("films").experiment_id])
    assert len(runs) == 4
    trial = next(run for run in runs if run.data.tags.get("trial") == "0")
    assert len(client.get_metric_history(trial.info.run_id, "recall_at_1")) == 3


def test_a_store_that_is_down_stops_nothing_and_is_delivered_later(study):
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    tracker = Tracker(study, "http://127.0.0.1:9")
    tracker.start()
    tracker.nudge()
    assert tracker.finish(timeout_s=30) is False
    assert tracker.trouble
    uri = default_uri(study)
    command = [sys.executable, "-m", "tune.tracking", str(study.path), "--tracking-uri", uri]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    client = MlflowClient(tracking_uri=uri)
    assert len(client.search_runs([client.get_experiment_by_name("films").experiment_id])) == 4


def test_metric_names_are_ones_that_mlflow_takes(study):
    client = MlflowClient(tracking_uri=default_uri(study))
    StudyMirror(study, default_uri(study)).bring_up()
    experiment = client.get_experiment_by_name("films").experiment_id
    run = client.create_run(experiment)
    with pytest.raises(MlflowException):
        client.log_metric(run.info.run_id, "recall@1", 0.1)
    assert all("@" not in name for name in METRIC_NAMES)
