"""What a worker does with a training whose memory runs out, before its slot hears of it."""

from __future__ import annotations

import pytest
import torch

from reranker.config import TrialConfig
from reranker.errors import OutOfMemory
from reranker.modeling.model_cache import BaseModels
from tune.execution.worker_loop import with_room

NO_ROOM = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"


@pytest.fixture
def bases() -> BaseModels:
    """One base waits for the next trial."""
    kept = BaseModels()
    with kept.base(TrialConfig(model="demo-tiny"), torch.device("cpu")):
        pass
    return kept


@pytest.mark.parametrize(
    "error", [OutOfMemory(8), RuntimeError(NO_ROOM), MemoryError()], ids=lambda error: type(error).__name__
)
def test_bases_that_wait_make_room_for_a_second_try(bases, error):
    loaded = []

    def train() -> None:
        loaded.append(bases.loaded)
        if len(loaded) == 1:
            raise error

    with_room(bases, train)
    assert loaded == [["demo-tiny"], []]


def test_where_nothing_waits_there_is_no_second_try():
    tries = []

    def train() -> None:
        tries.append(1)
        raise OutOfMemory(8)

    with pytest.raises(OutOfMemory):
        with_room(BaseModels(), train)
    assert tries == [1]


def test_another_fault_drops_no_base(bases):
    def train() -> None:
        raise RuntimeError("the size of tensor a must match the size of tensor b")

    with pytest.raises(RuntimeError, match="tensor a"):
        with_room(bases, train)
    assert bases.loaded == ["demo-tiny"]
