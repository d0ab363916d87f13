"""A training that other workers go on with than those that began it."""

from __future__ import annotations

import math
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import start_processes

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.errors import TrainingStopped
from reranker.training.sft import fine_tune
from reranker.training.training_counters import for_workers, read_counters

pytestmark = pytest.mark.slow
DATA = DemoData(users=33, interactions_per_user=5)  # of which the last step of an epoch has one
CONFIG = TrialConfig(
    model="demo-tiny",
    examples_per_user=1,
    epochs=2,
    effective_batch=16,
    list_sharing=4,
    skill_steps=0,
    learning_rate=5e-3,
)


def _train(rank: int, workers: int, port: int, folder: Path, reports: int) -> None:
    torch.set_num_threads(1)
    if workers > 1:
        facts = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": workers,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        os.environ |= {name: str(value) for name, value in facts.items()}
        torch.distributed.init_process_group("gloo")

    def stop(report):
        if report.figures["report"] >= reports:
            raise TrainingStopped("enough")
        return True

    try:
        fine_tune(CONFIG, RerankingData.prepare(DATA), folder=TrialFolder(folder), on_report=stop, resume=True)
    except TrainingStopped:
        pass
    finally:
        if workers > 1:
            torch.distributed.destroy_process_group()


def train(folder: Path, workers: int, reports: int) -> list[dict[str, float]]:
    """The figures of a trial's reports after a training that ends with so many of them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    start_processes(_train, (workers, port, folder, reports), nprocs=workers, start_method="spawn")
    return TrialFolder(folder).read_reports()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone") / "trial", workers=1, reports=2)


@pytest.fixture(scope="module")
def begun_by_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "trial"
    train(folder, workers=2, reports=1)
    return folder


def test_one_worker_goes_on_with_what_two_have_begun(begun_by_two, alone, tmp_path):
    shutil.copytree(begun_by_two, tmp_path / "trial")
    check(train(tmp_path / "trial", workers=1, reports=2), [2, 1], alone)
    (note,) = TrialFolder(tmp_path / "trial").read_notes()
    assert note == "workers: 2 kept its last state, and 1 went on from it"


def test_two_workers_go_on_with_what_one_has_begun(alone, tmp_path):
    train(tmp_path / "trial", workers=1, reports=1)
    check(train(tmp_path / "trial", workers=2, reports=2), [1, 2], alone)


def check(reports: list[dict[str, float]], workers: list[int], alone: list[dict[str, float]]) -> None:
    assert [figures["applied/workers"] for figures in reports] == workers
    assert [figures["applied/examples"] for figures in reports] == [33, 66]
    for name in ("val_loss", "train_loss", "guessing_loss"):
        assert [figures[name] for figures in reports] == pytest.approx([figures[name] for figures in alone], abs=1e-5)


def test_a_state_of_before_the_loss_of_guessing_does_not_tell_it(tmp_path):
    (tmp_path / "counters-0.json").write_text('{"examples": 3, "losses": 1.5}')
    (kept,) = read_counters(tmp_path)
    assert (kept["examples"], kept["losses"], kept["tokens"]) == (3, 1.5, 0)
    assert math.isnan(kept["guessing"])


def test_counters_are_divided_so_that_none_is_lost(begun_by_two):
    state = TrialFolder(begun_by_two).last_state()
    assert state is not None
    kept = read_counters(state)
    three = for_workers(kept, 3)
    assert sum(counters["examples"] for counters in three) == 33
    assert sum(counters["tokens"] for counters in three) == sum(counters["tokens"] for counters in kept)
    assert {counters["largest_pass"] for counters in three} == {max(counters["largest_pass"] for counters in kept)}
