"""The sections of a study file, but for its space: how it is searched, on what, and where."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator

from reranker.config import Baseline, StrictModel, auto_or_int
from reranker.data_config import DataConfig
from tune.study_file.copy_address import checked_address

MOST_TRIALS = 100_000
DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)


Tracker = Literal["mlflow", "jsonl", "tensorboard", "wandb"]
_NAME: dict[str, Any] = {"enum": ["auto", *get_args(Baseline)], "type": "string"}
_TRACKER: dict[str, Any] = {"enum": list(get_args(Tracker)), "type": "string"}


def _as_list(names: object) -> object:
    """A single name is a list of one."""
    return [names] if isinstance(names, str) else names


class Asha(StrictModel):
    """ASHA compares trials at epochs grace, grace·reduction, grace·reduction² … and lets the best 1/reduction go on.
    What is not a report's epoch counts as that of the next report.

    With a decaying schedule it compares them at as many fractions of their own epochs: … 1/reduction², 1/reduction.
    Those that are behind go on too if they would catch up by the next rung, `pace` times as fast as they come.
    """

    grace: float | None = Field(
        None, gt=0, le=10_000, description="in epochs; null: a ninth of the longest trial's, at least one report"
    )
    reduction: int = Field(3, ge=2, le=10_000)
    pace: float = Field(0.6, ge=0, le=1, description="0: plain ASHA, which prefers rates that are fast at first")


class StudySettings(StrictModel):
    """The section `study`: how the search is run."""

    name: str = Field(max_length=100)
    metric: Literal[
        "recall_at_1", "recall_at_5", "recall_at_10", "ndcg_at_5", "ndcg_at_10", "mrr_at_10", "val_loss"
    ] = "ndcg_at_10"
    trials: int = Field(ge=1, le=MOST_TRIALS)
    time_budget: str | None = None
    seed: int = Field(0, ge=0, lt=2**31)
    concurrency: int | None = Field(
        None, ge=1, le=10_000, description="trials at once; null: as many as the cluster holds"
    )
    sampler: Literal["tpe", "random", "gp", "cmaes", "grid"] = "tpe"
    scheduler: Literal["asha", "hyperband", "median", "none"] = "asha"
    patience: int | None = Field(
        None, ge=1, le=MOST_TRIALS, description="end after so many trials without a gain above the noise"
    )
    max_failures: int | None = Field(
        10, ge=1, le=MOST_TRIALS, description="end after so many failed trials; null: never"
    )
    reports_per_epoch: Annotated[Literal["auto"] | int, auto_or_int(1, 10_000)] = Field(
        "auto",
        description="comparisons within an epoch too, on a part of the validation lists; auto: one every few minutes",
    )
    checkpoint_minutes: float = Field(
        10, ge=0, le=100_000, description="a kill costs at most so much training; each report keeps its state anyway"
    )
    baselines: Annotated[
        list[Literal["auto", Baseline]],
        BeforeValidator(_as_list),
        WithJsonSchema({"anyOf": [_NAME, {"type": "array", "items": _NAME}]}),
    ] = Field(
        ["auto"], description="rankers without an LLM that trials are held against; auto: those that take seconds"
    )
    baseline_minutes: float = Field(
        30, gt=0, le=100_000, description="of tuning, before the first trial, for each baseline that is trained"
    )
    trackers: Annotated[
        list[Tracker],
        BeforeValidator(_as_list),
        WithJsonSchema({"anyOf": [_TRACKER, {"type": "array", "items": _TRACKER}]}),
    ] = Field(["mlflow"], description="where the search is shown; MLflow is always among them")
    copy_to: str | None = Field(
        None, description="an object store or folder that keeps a copy, such as s3://BUCKET/FOLDER; null: none"
    )
    start_from: list[dict[str, Any]] = Field([], description="tried first; knobs left out are drawn")
    asha: Asha = Asha()

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError("must be letters, digits, '.', '_' and '-', the first one a letter or digit")
        return name

    @field_validator("copy_to")
    @classmethod
    def _is_an_address(cls, address: str | None) -> str | None:
        return None if address is None else checked_address(address)

    @field_validator("time_budget", mode="before")
    @classmethod
    def _is_a_duration(cls, text: object) -> object:
        match = DURATION.fullmatch(text) if isinstance(text, str) else None
        if text is not None and not (match and any(int(group or 0) for group in match.groups())):
            raise ValueError("a time budget must look like 6h, 90m, 45s or 1h30m, and be above 0")
        return text


class Resources(StrictModel):
    """The section `resources`: what each trial takes of the machine."""

    workers: int = Field(1, ge=1, le=10_000, description="distributed processes a trial")
    cpus_per_worker: Annotated[Literal["auto"] | int, auto_or_int(1, 10_000)] = Field(
        "auto", description="each with a thread; auto: one, or for a real model without a GPU up to four"
    )
    gpus_per_trial: Literal["auto"] | float = Field("auto", description="auto: one a worker, or the part it needs")
    cuda_mps: bool = Field(
        False, description="trials that share a GPU compute side by side, by NVIDIA's Multi-Process Service"
    )
    isolation: Literal["slot", "trial"] = Field("slot", description="trial: new worker processes for each trial")
    idle_seconds: float = Field(
        60,
        ge=0,
        le=1e9,
        description="after so long a paused search, or a slot without a trial, gives back the workers that it holds",
    )
    hang_minutes: float = Field(
        30,
        ge=0,
        le=1e9,
        description="workers that tell nothing for so long are replaced, as if they had died; 0: never",
    )

    @field_validator("gpus_per_trial", mode="before")
    @classmethod
    def _auto_or_a_number(cls, gpus: object) -> object:
        if gpus != "auto" and (isinstance(gpus, bool) or not isinstance(gpus, int | float) or not 0 <= gpus < math.inf):
            raise ValueError("must be auto or a number from 0")
        return gpus


class StudyFile(StrictModel):
    """A study file's sections that do not depend on the space."""

    study: StudySettings
    data: DataConfig
    resources: Resources = Resources()
    fixed: dict[str, Any] = Field({})
    space: dict[str, Any] = Field(min_length=1)
