"""An adapter → a version of a model in MLflow's registry, with all that is needed to load and serve it."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

import reranker
from reranker.artifacts.trial_folder import TrialFolder
from reranker.command_line.redaction import masked
from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault
from reranker.modeling.checkpoints.model_files import BUNDLED, resolve, revision_of
from reranker.modeling.checkpoints.model_names import MODELS
from results.statistics.comparison import compare
from results.statistics.verdict_text import verdict
from results.study.study_folder import StudyFolder
from tune.deployment.refit import Recipe
from tune.mirroring.run_names import text
from tune.mlflow_tracking import mlflow_pages

# What `reranker.rank` imports, and MLflow's server with it.
REQUIRED = (
    "PyYAML",
    "accelerate",
    "cachetools",
    "filelock",
    "gguf",
    "huggingface_hub",
    "mlflow",
    "numpy",
    "pandas",
    "peft",
    "pillow",
    "psutil",
    "pyarrow",
    "pydantic",
    "rich",
    "safetensors",
    "scipy",
    "torch",
    "transformers",
)
_CODE = Path(reranker.__file__).parent
_SERVED = Path(__file__).with_name("pyfunc_model.py")


def register(
    study: StudyFolder, adapter: TrialFolder, example: dict[str, list[str]], *, name: str, tracking_uri: str
) -> int:
    """Log an adapter as an MLflow model and make it the next version of a registered one.

    With it go our own code and the base model, where that lies on this machine: as a folder, or converted from a GGUF
    file. A base from the Hub goes by its id.

    Args:
        adapter: the study's refit, or one of its trials.
        example: of a question, `history` and `candidates` in titles.
        name: of the registered model.

    Returns:
        The number of the version.

    Raises:
        EnvironmentFault: the store is down, or does not have the study.
    """
    facts = _facts(study, adapter)
    config = adapter.read_config()
    try:
        with _store(tracking_uri), _run(study, facts):
            mlflow.log_params({knob: text(value) for knob, value in facts["config"].items()})
            model = mlflow.pyfunc.log_model(
                name=name,
                python_model=str(_SERVED),
                code_paths=[str(_CODE)],
                artifacts=_artifacts(adapter, config),
                signature=_signature(config),
                input_example=pd.DataFrame([example]),
                pip_requirements=[f"{library}=={_version(library)}" for library in _required(config)],
                metadata=facts,
                registered_model_name=name,
            )
            version = int(model.registered_model_version)
            client = MlflowClient()
            for key in ("study", "trial", "data_fingerprint", "refit", "base"):
                client.set_model_version_tag(name, str(version), key, str(facts[key]))
            client.update_model_version(name, str(version), description=verdict(study))
            client.set_registered_model_alias(name, _alias(study), str(version))
    except (MlflowException, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EnvironmentFault(
            f"the model could not be registered at {masked(tracking_uri)}: {masked(first)}"
        ) from error
    return version


def _alias(study: StudyFolder) -> str:
    """`champion` for a winner that is proven better than every baseline, else `challenger`."""
    comparison = compare(study)
    return (
        "champion"
        if comparison is not None and all(d.word == "better" for d in comparison.against.values())
        else "challenger"
    )


def _facts(study: StudyFolder, adapter: TrialFolder) -> dict[str, Any]:
    """Where the adapter comes from: kept in the model itself, so that it is known where there is no registry."""
    manifest, refitted = study.read_manifest(), adapter == study.refit
    if refitted:
        recipe = Recipe.read(adapter)
    else:
        recipe = Recipe.of(study, next(t for t in study.trials() if study.trial(t.number) == adapter))
    config = adapter.read_config()
    return {
        "study": study.name,
        "study_id": manifest["study_id"],
        "trial": recipe.trial,
        "refit": "yes" if refitted else "no",
        "epochs": recipe.epochs,
        f"validation/{recipe.metric}": recipe.value,
        **manifest["tags"],
        "base": (model.hub if (model := MODELS.get(config.model)) else None) or config.model,
        "config": config.model_dump(mode="json"),
        "plan": manifest["plan"],
        "versions": manifest["versions"],
    }


@contextmanager
def _store(uri: str) -> Iterator[None]:
    """MLflow's logging of models knows one store a process: this one meanwhile."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


@contextmanager
def _run(study: StudyFolder, facts: dict[str, Any]) -> Iterator[None]:
    """A run of its own below the study's, so that the trials' stay as the search left them."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name(study.name)
    query = f"tags.kind = 'study' and tags.study_id = '{facts['study_id']}'"
    parents = client.search_runs([experiment.experiment_id], query) if experiment else []
    if not parents:
        rule = (
            f"the store does not have the study yet; python -m tune.tracking {shlex.quote(str(study.path))} delivers it"
        )
        raise EnvironmentFault(rule)
    kind = "refit" if facts["refit"] == "yes" else "adapter"
    tags = {mlflow_pages.PARENT: parents[0].info.run_id, "kind": kind, "study": study.name, "of_trial": facts["trial"]}
    name = f"{kind} of trial {facts['trial']}"
    with mlflow.start_run(experiment_id=experiment.experiment_id, run_name=name, tags=tags, log_system_metrics=False):
        yield


def _artifacts(adapter: TrialFolder, config: TrialConfig) -> dict[str, str]:
    base = resolve(config.model)
    elsewhere = isinstance(base, str) or base.is_relative_to(BUNDLED) or bool(revision_of(config.model))
    return {"adapter": str(adapter.adapter)} | ({} if elsewhere else {"base": str(base)})


def _signature(config: TrialConfig) -> ModelSignature:
    texts, positions, shares = Array(DataType.string), Array(DataType.long), Array(DataType.double)
    images = [ColSpec(texts, f"{part}_images", required=False) for part in ("history", "candidate")]
    return ModelSignature(
        inputs=Schema(
            [
                ColSpec(texts, "history"),
                ColSpec(texts, "candidates"),
                ColSpec(texts, "candidate_ids", required=False),
                *(images if config.image_mode == "raw_image" else []),
            ]
        ),
        outputs=Schema([ColSpec(positions, "order"), ColSpec(shares, "probabilities")]),
        params=ParamSchema([ParamSpec("permutations", DataType.long, config.permutations)]),
    )


def _required(config: TrialConfig) -> tuple[str, ...]:
    quantiser = ["bitsandbytes"] if config.quantisation == "nf4" else []
    return (*REQUIRED, *quantiser)


def _version(library: str) -> str:
    """Without the build of this machine, as in 2.13.0+cpu."""
    return importlib.metadata.version(library).partition("+")[0]
