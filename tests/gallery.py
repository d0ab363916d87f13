"""Studies that are broken on purpose, one fault each, and healthy ones: small, but real from the data to the study's folder."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import yaml

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import Example
from reranker.data.sources.demo import ITEM_IDS, TITLES
from reranker.data_config import DemoData, TablesData
from reranker.evaluation.scoring import EncodedLists
from reranker.modeling.model_cache import BaseModels
from reranker.prompting.prompts import PromptEncoder
from reranker.storage.atomic_files import write_yaml
from reranker.training import sft
from reranker.zero_shot import keep_zero_shot
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tests.stored import keep_journal
from tune.study_file.loading import load
from tune.study_file.manifest import keep_baselines, make_manifest

GOOD = TrialConfig(
    model="demo-tiny", candidates=10, epochs=2, learning_rate=3e-3, lora_rank=8, examples_per_user=5, history_length=6,
    effective_batch=16, list_sharing=1, skill_steps=0,
)  # fmt: skip
_ZERO_SHOT: dict[tuple[RerankingData, str], StudyFolder] = {}
SPACE = {"learning_rate": {"log_uniform": [1e-5, 1.0]}}


def build(
    runs: Path,
    name: str,
    data: RerankingData,
    trials: Sequence[TrialConfig],
    space: dict[str, Any] | None = None,
    metric: str = "ndcg_at_10",
) -> StudyFolder:
    """Train the configurations one after the other, and keep what a search keeps of them."""
    folder = StudyFolder.create(runs, name)
    searched = space or SPACE
    fixed = trials[0].model_dump(mode="json", exclude_defaults=True, exclude={*searched, "seed"})
    if "lora_rank" in searched:
        fixed.pop("lora_alpha", None)
    sections = {
        "study": {"name": name, "trials": len(trials), "metric": metric},
        "data": data.config.model_dump(mode="json", exclude_none=True),
        "fixed": {"candidates": trials[0].candidates, **fixed},
        "space": searched,
    }
    write_yaml(folder.study_file, yaml.safe_dump(sections))
    study = load(folder.study_file)
    write_yaml(folder.study_file, study.dump())
    baselines = keep_baselines(study, data, folder)
    folder.write_manifest(make_manifest(study, data, "", baselines))
    folder.begin_readings()
    _keep_zero_shot(study.base(), data, folder)
    for number, config in enumerate(trials):
        train(folder, number, config, data, metric)
    return keep_journal(folder)


def train(
    folder: StudyFolder,
    number: int,
    config: TrialConfig,
    data: RerankingData,
    metric: str = "ndcg_at_10",
    last: int = 99,
) -> None:
    """To its end; or up to an epoch, after which the trial counts as pruned."""
    folder.start_trial(number, config)
    bases = loaded(tuple(data.interactions.item_texts))
    sft.fine_tune(
        config,
        data,
        metric=metric,
        folder=folder.trial(number),
        bases=bases,
        on_report=lambda report: report.figures["epoch"] < last,
    )
    folder.write_status(number, TrialStatus.COMPLETED if last >= config.epochs else TrialStatus.PRUNED)


def _keep_zero_shot(base: TrialConfig, data: RerankingData, folder: StudyFolder) -> None:
    """As a search's first worker does; once for the studies that have it in common."""
    same = _ZERO_SHOT.setdefault((data, base.model_dump_json()), folder)
    kept = zip(folder.zero_shot(base.model), same.zero_shot(base.model), strict=True)
    if same is not folder and same.zero_shot(base.model)[0].has_ranks:
        for own, theirs in kept:
            shutil.copytree(theirs.path, own.path)
    else:
        keep_zero_shot(base, data, loaded(tuple(data.interactions.item_texts)), *folder.zero_shot(base.model))


@functools.cache
def loaded(catalogue: tuple[str, ...]) -> BaseModels:
    """A base keeps the catalogue that it was first used with."""
    return BaseModels()


@functools.cache
def demo(users: int = 240, seed: int = 0, **more: Any) -> RerankingData:
    return RerankingData.prepare(DemoData(users=users, seed=seed, **more))


def broken(kind: type[RerankingData], data: RerankingData) -> Any:
    return kind(data.config, data.interactions, data.split, data.sampler)


class Shuffled(RerankingData):
    """Training answers are drawn at random."""

    def training_examples(self, config: TrialConfig, epoch: int) -> list[Example]:
        rng = np.random.default_rng(epoch)
        examples = super().training_examples(config, epoch)
        return [replace(e, target=int(rng.integers(len(e.candidates)))) for e in examples]


def _leaked(examples: list[Example]) -> list[Example]:
    return [replace(e, history=(*e.history, e.candidates[e.target])) for e in examples]


class Leaked(RerankingData):
    """Every history ends with the answer."""

    def training_examples(self, config: TrialConfig, epoch: int) -> list[Example]:
        return _leaked(super().training_examples(config, epoch))

    def validation(self, config: TrialConfig) -> list[Example]:
        return _leaked(super().validation(config))


class LeakedInTraining(RerankingData):
    """Every history that is trained on ends with the answer."""

    def training_examples(self, config: TrialConfig, epoch: int) -> list[Example]:
        return _leaked(super().training_examples(config, epoch))


class FirstIsRight(RerankingData):
    """In training two answers of three stand first."""

    def training_examples(self, config: TrialConfig, epoch: int) -> list[Example]:
        rng = np.random.default_rng(epoch)
        return [_put_first(e) if rng.random() < 2 / 3 else e for e in super().training_examples(config, epoch)]


def _put_first(e: Example) -> Example:
    others = e.candidates[: e.target] + e.candidates[e.target + 1 :]
    return replace(e, candidates=(e.candidates[e.target], *others), target=0)


@contextmanager
def scored_in_another_template() -> Iterator[None]:
    """Lists are scored with the label before its title, whatever was trained."""
    whole = EncodedLists.of

    def other(encoder: PromptEncoder, examples: Sequence[Example]) -> EncodedLists:
        config = encoder.config.model_copy(update={"label_position": "before"})
        return whole(PromptEncoder(encoder.catalogue, config), examples)

    with mock.patch.object(EncodedLists, "of", staticmethod(other)):
        yield


def taste_of_the_crowd(folder: Path, users: int, seed: int) -> RerankingData:
    """Tables in which everybody takes what is popular, and titles tell nothing of it."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, len(ITEM_IDS) + 1) ** 1.1
    share /= share.sum()
    rows = [
        (f"u{user}", ITEM_IDS[item], step)
        for user in range(users)
        for step, item in enumerate(rng.choice(len(ITEM_IDS), 8, replace=False, p=share))
    ]
    titles = np.array(TITLES)[np.random.default_rng(1).permutation(len(TITLES))]
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(folder / "interactions.csv", index=False)
    pd.DataFrame({"item_id": ITEM_IDS, "text": titles}).to_csv(folder / "items.csv", index=False)
    return RerankingData.prepare(
        TablesData(interactions=folder / "interactions.csv", items=folder / "items.csv", min_item=1, seed=seed)
    )
