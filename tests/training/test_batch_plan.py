"""A pass is as large as a GPU holds, and never larger than what is fast."""

from __future__ import annotations

import pytest

from reranker.config import TrialConfig
from reranker.modeling.checkpoints.model_files import shape_of
from reranker.modeling.memory.memory_estimate import GIB, PassSize, estimate
from reranker.training.batch_plan import pass_tokens
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
