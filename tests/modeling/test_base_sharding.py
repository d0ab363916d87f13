"""When a training's workers divide a base among them, and what each then holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reranker.config import TrialConfig
from reranker.modeling.checkpoints.model_files import shape_of
from reranker.modeling.memory.base_sharding import divides
from reranker.modeling.memory.memory_estimate import GIB, PassSize, estimate


def is_divided(model: str, gib: float, *, workers: int = 2, device: str = "cuda", **knobs: object) -> bool:
    config = TrialConfig.model_validate({"model": model, **knobs})
    return divides(config, shape_of(model), device, gib * GIB, workers)


def test_a_base_that_no_gpu_holds_is_divided_of_its_own_accord():
    assert is_divided("qwen3-8b", 16)
    assert not is_divided("qwen3-8b", 40)


def test_it_is_where_that_is_asked_for():
    assert is_divided("qwen3-0.6b", 80, shard_base=True)
    assert is_divided("qwen3-0.6b", 80, shard_base=True, device="cpu")
    assert not is_divided("qwen3-8b", 16, shard_base=False)


@pytest.mark.parametrize("knobs", [{"quantisation": "nf4"}, {"dora": True}])
def test_it_is_not_where_whole_weights_are_needed(knobs):
    assert not is_divided("qwen3-8b", 16, **knobs)


def test_one_worker_has_nobody_to_divide_it_with():
    assert not is_divided("qwen3-8b", 16, workers=1)
    assert not is_divided("qwen3-0.6b", 80, workers=1, shard_base=True)


def test_on_a_cpu_it_is_only_where_that_is_asked_for():
    assert not is_divided("qwen3-8b", 16, device="cpu")


def test_of_an_unknown_model_only_where_that_is_asked_for():
    assert divides(TrialConfig(shard_base=True), None, "cuda", GIB, 2)
    assert not divides(TrialConfig(), None, "cuda", GIB, 2)


def test_each_worker_holds_a_part_of_the_layers_and_two_whole_ones_while_it_computes():
    config, size = TrialConfig(model="qwen3-8b"), PassSize(1, 512)
    shape = shape_of("qwen3-8b")
    assert shape is not None
    whole = estimate(config, shape, size, on_gpu=True)
    part = estimate(config, replace(shape, shards=4), size, on_gpu=True)
    layer = 2 * (2 * 4096 * 128 * (32 + 8) + 3 * 4096 * 12288)  # bytes, of Qwen3-8B in bf16
    assert whole.weights - part.weights == pytest.approx(36 * layer * 3 / 4)
    assert part.activations - whole.activations == pytest.approx(2 * layer)
    assert part.adapter == whole.adapter
