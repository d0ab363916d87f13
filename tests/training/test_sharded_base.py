"""A base whose layers are divided among a training's workers."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.multiprocessing.spawn import start_processes

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.evaluation import scoring
from reranker.modeling.checkpoints.model_files import local_folder
from reranker.modeling.model_cache import BaseModels
from reranker.modeling.sharded_base import is_divided, passes_missing
from reranker.ranking.ranker import Reranker
from reranker.training import batch_plan, trainer
from reranker.training.sft import fine_tune
from reranker.zero_shot import zero_shot

pytestmark = pytest.mark.slow
DATA = DemoData(
    users=33, interactions_per_user=8
)  # of which no epoch makes whole steps, and the last one a single list
SHARED = TrialConfig(
    model="demo-tiny",
    examples_per_user=1,
    epochs=1,
    effective_batch=16,
    list_sharing=4,
    skill_steps=0,
    learning_rate=5e-3,
)
CASES = {
    "shared lists": SHARED,
    "whole prompts": SHARED.model_copy(
        update={"prompt_order": "history_first", "list_sharing": "auto", "history_dropout": 0.5}
    ),
    "checkpointed": SHARED.model_copy(
        update={"gradient_checkpointing": True, "lora_init": "pissa", "learning_rate": 5e-4}
    ),
    "second stage": SHARED.model_copy(update={"epochs": 2, "dpo_epochs": 1}),
    "taught": SHARED.model_copy(update={"model": "taught", "skill_steps": 3}),
}
_TOKENS = 352  # of a pass, of which workers then need different numbers, since histories differ in length


def _train(rank: int, workers: int, port: int, folder: Path, divided: bool) -> None:
    """Train all cases, each in a folder of its own, and write beside them what this worker saw."""
    torch.set_num_threads(1)
    facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": workers, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if workers > 1:
        os.environ |= {name: str(value) for name, value in facts.items()}
        torch.distributed.init_process_group("gloo")
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    batch_plan._PASS_TOKENS["cpu"] = scoring._BATCH_TOKENS["cpu"] = _TOKENS
    missing: dict[str, int] = {}
    for module in (trainer, scoring):
        name = module.__name__.rsplit(".", 1)[-1]
        module.passes_missing = _counted(missing, name)  # type: ignore[attr-defined]
    data, bases = RerankingData.prepare(DATA), BaseModels()
    results: dict[str, Any] = {}
    try:
        for name, config in CASES.items():
            own = config.model_copy(update={"shard_base": divided})
            if own.model == "taught":
                own = own.model_copy(update={"model": str(folder.parent / "taught")})
            fine_tune(own, data, folder=TrialFolder(folder / name), bases=bases)
        lists = data.validation(SHARED)[:1]  # fewer than workers
        untrained = zero_shot(SHARED.model_copy(update={"shard_base": divided}), data, lists, bases)
        base = list(bases._bases.values())[-1]
        layers = base.get_decoder().layers
        held = sum(_held(parameter) for parameter in layers.parameters())
        whole = sum(parameter.numel() for parameter in layers.parameters())
        results = {
            "missing": missing,
            "divided": is_divided(base),
            "share": held / whole,
            "zero_shot": untrained.plain.figures["val_loss"],
        }
        (folder / f"{rank}.json").write_text(json.dumps(results), encoding="utf-8")
    finally:
        if workers > 1:
            torch.distributed.destroy_process_group()


def _held(parameter: Any) -> int:
    return int((parameter.to_local() if hasattr(parameter, "to_local") else parameter).numel())


def _counted(missing: dict[str, int], where: str) -> Any:
    def count(model: Any, mine: int) -> int:
        number = passes_missing(model, mine)
        missing[where] = missing.get(where, 0) + number
        return number

    return count


def train(folder: Path, workers: int, *, divided: bool) -> Path:
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    start_processes(_train, (workers, port, folder, divided), nprocs=workers, start_method="spawn")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where all of them train; with a base that has no skill of its own."""
    folder = tmp_path_factory.mktemp("home")
    demo = local_folder("demo-tiny")
    assert demo is not None
    shutil.copytree(demo, folder / "taught")
    return folder


@pytest.fixture(scope="module")
def alone(home):
    return train(home / "alone", 1, divided=True)


@pytest.fixture(scope="module")
def whole(home):
    return train(home / "whole", 2, divided=False)


@pytest.fixture(scope="module")
def divided(home):
    return train(home / "divided", 2, divided=True)


def seen(folder: Path, rank: int) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / f"{rank}.json").read_text(encoding="utf-8"))
    return facts


@pytest.mark.parametrize("case", CASES)
def test_the_figures_are_those_of_one_worker(alone, divided, case):
    one, two = (TrialFolder(folder / case).read_reports() for folder in (alone, divided))
    assert [figures["applied/workers"] for figures in two] == [2] * len(one)
    names = ("val_loss", "train_loss", "ndcg_at_10", "applied/parameters", "applied/flops_per_list", "applied/examples")
    for name in names:
        assert [figures[name] for figures in two] == pytest.approx([figures[name] for figures in one], rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_adapter_is_that_of_two_workers_with_a_base_each_bit_for_bit(whole, divided, case):
    files = [TrialFolder(folder / case).adapter / "adapter_model.safetensors" for folder in (whole, divided)]
    one, other = (load_file(file) for file in files)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_each_worker_holds_half_of_the_layers(divided, whole):
    for rank in (0, 1):
        assert seen(divided, rank)["divided"]
        assert seen(divided, rank)["share"] == pytest.approx(0.5, abs=0.01)
        assert not seen(whole, rank)["divided"]
        assert seen(whole, rank)["share"] == 1


def test_one_worker_alone_has_the_whole_base(alone):
    assert not seen(alone, 0)["divided"]


def test_workers_with_fewer_passes_took_part_in_those_of_others(divided):
    both = [seen(divided, rank)["missing"] for rank in (0, 1)]
    for where in ("trainer", "scoring"):
        assert sum(missing[where] for missing in both) > 0, where


def test_untrained_scores_are_those_of_one_worker(alone, divided):
    for rank in (0, 1):
        assert seen(divided, rank)["zero_shot"] == pytest.approx(seen(alone, 0)["zero_shot"], abs=1e-5)


def test_the_adapter_is_loaded_on_the_plain_base_that_it_was_trained_on(divided):
    reranker = Reranker.load(TrialFolder(divided / "shared lists").adapter)
    assert reranker.config.shard_base is True
