"""A study → its experiment in an MLflow store, which is called as the study is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Experiment
from mlflow.tracking import MlflowClient

from results.study.study_folder import StudyFolder
from results.study.tracking_address import local_store
from tune.mlflow_tracking import mlflow_pages, moved_store
from tune.mlflow_tracking.report_metrics import now_ms
from tune.mlflow_tracking.store_driver import is_database

_STUDY, _FOLDER = "study_id", "folder"  # tags that tell a study that was renamed from a copy


def find_or_make(client: MlflowClient, uri: str, study: StudyFolder, axes: Mapping[str, str]) -> str:
    """Its id. It has the saved views of a study; those that somebody has changed stay as they are.

    In a store on this machine, the experiment of a study that was renamed is renamed too, and one that somebody has
    deleted is restored.

    Args:
        axes: by knob, the parameter that stands for it in charts.
    """
    is_local = uri == local_store(study)
    existing = client.get_experiment_by_name(study.name) or (_former(client, study) if is_local else None)
    if existing is None:
        is_own = uri.startswith("sqlite") or is_database(uri)  # MLflow would take a folder of the current one
        place = moved_store.artifacts_of(study) if is_own else None
        experiment, tags = str(client.create_experiment(study.name, artifact_location=place)), {}
    else:
        experiment, tags = str(existing.experiment_id), existing.tags
        if existing.lifecycle_stage != "active":
            client.restore_experiment(experiment)
        if existing.name != study.name:
            client.rename_experiment(experiment, study.name)
    manifest = study.read_manifest()
    views = mlflow_pages.saved_views(manifest["metric"], manifest["knobs"], list(axes.values()), now_ms())
    tagged = {mlflow_pages.view_tag(key): view for key, view in views.items()}
    for key, value in {**mlflow_pages.OF_TRAINING, **tagged}.items():
        if key not in tags:
            client.set_experiment_tag(experiment, key, value)
    identity = {_STUDY: manifest["study_id"], **({_FOLDER: str(study.path.resolve())} if is_local else {})}
    for key, value in identity.items():
        if tags.get(key) != value:
            client.set_experiment_tag(experiment, key, value)
    return experiment


def _former(client: MlflowClient, study: StudyFolder) -> Experiment | None:
    """The experiment of this study under the name that its folder had before."""
    query = f"tags.{_STUDY} = '{study.read_manifest()['study_id']}'"
    for experiment in client.search_experiments(filter_string=query):
        if not Path(experiment.tags.get(_FOLDER, "/")).exists():
            return experiment
    return None
