"""A study → its data as MLflow's pages list them: a name, a fingerprint, where they are from, how many."""

from __future__ import annotations

import json

from mlflow.entities import Dataset, DatasetInput, InputTag

from results.study.study_folder import StudyFolder

_CONTEXT = "mlflow.data.context"  # the tag that MLflow shows beside a run's data
_DIGEST = 36  # characters that MLflow takes


def dataset_of(study: StudyFolder) -> Dataset:
    """The data of all runs of a study: they train on one part of it, and are scored on the same lists."""
    manifest, section = study.read_manifest(), study.read_sections().get("data") or {}
    shown = ("candidates", "candidate_mode", "retriever", "validation_lists")
    return Dataset(
        name=str(section.get("source", "data")),
        digest=manifest["tags"]["data_fingerprint"][:_DIGEST],
        source_type="code",
        source=json.dumps({"tags": {key: str(value) for key, value in section.items()}}),
        profile=json.dumps({key: manifest["plan"][key] for key in shown if key in manifest["plan"]}),
    )


def as_input(dataset: Dataset, context: str) -> DatasetInput:
    """The data as what a run has used for `context`, such as "training"."""
    return DatasetInput(dataset, [InputTag(_CONTEXT, context)])
