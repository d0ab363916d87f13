"""A pass is as large as a GPU holds, and never larger than what is fast."""

from __future__ import annotations

import pytest

from reranker.config import TrialConfig
from reranker.modeling.checkpoints.model_files import shape_of
from reranker.modeling.memory.memory_estimate import GIB, PassSize, estimate
from reranker.training.batch_plan import checkpoints, pass_tokens
from tests.present import present


def tokens(model: str, gib: float, **knobs) -> int:
    return pass_tokens(TrialConfig(model=model, **knobs), shape_of(model), "cuda", gib * GIB)


@pytest.mark.parametrize(("gib", "most"), [(80, 16384), (24, 8192), (12, 4096), (8, 2048), (2, 512)])
def test_a_smaller_card_gets_smaller_passes(gib, most):
    assert tokens("qwen3-0.6b", gib) == most


def test_what_a_pass_takes_is_within_the_card():
    config, size = TrialConfig(model="qwen3-4b"), PassSize(tokens("qwen3-4b", 40) // 512, 512)
    twice, shape = PassSize(2 * size.rows, 512), present(shape_of("qwen3-4b"))
    assert estimate(config, shape, size, on_gpu=True).total < 0.9 * 40 * GIB
    assert estimate(config, shape, twice, on_gpu=True).total > 0.9 * 40 * GIB


def test_less_is_kept_with_gradient_checkpointing_so_passes_are_larger():
    assert tokens("qwen3-0.6b", 12, gradient_checkpointing=True) > tokens("qwen3-0.6b", 12)


def test_without_a_gpu_and_for_unknown_models_passes_are_what_is_fast():
    config = TrialConfig(model="qwen3-8b")
    assert pass_tokens(config, shape_of("qwen3-8b"), "cpu", 4 * GIB) == 4096
    assert pass_tokens(config, None, "cuda", 4 * GIB) == 16384


def saves(model: str, gib: float, device: str = "cuda", **knobs) -> bool:
    return checkpoints(TrialConfig(model=model, **knobs), shape_of(model), device, gib * GIB)


@pytest.mark.parametrize(("gib", "does"), [(80, False), (12, False), (8, True), (2, True)])
def test_layers_are_computed_twice_where_only_small_passes_fit_otherwise(gib, does):
    assert saves("qwen3-0.6b", gib) == does


def test_not_where_a_step_s_examples_are_few_anyway():
    assert not saves("qwen3-0.6b", 8, effective_batch=2)


def test_nor_for_a_given_micro_batch_that_fits():
    assert not saves("qwen3-0.6b", 8, micro_batch=2)
    assert saves("qwen3-0.6b", 8, micro_batch=32)


def test_on_a_cpu_where_a_pass_does_not_fit_its_memory():
    assert not saves("smollm2-135m", 24, "cpu")
    assert saves("smollm2-135m", 4, "cpu")


def test_what_is_chosen_by_hand_stays():
    assert not saves("qwen3-0.6b", 2, gradient_checkpointing=False)
    assert saves("qwen3-0.6b", 80, gradient_checkpointing=True)


def test_nor_can_it_be_told_of_a_model_whose_shape_is_not_known():
    assert not checkpoints(TrialConfig(), None, "cuda", GIB)
