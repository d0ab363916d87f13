"""Training with compiled layers: the same numbers up to rounding, and nothing left of it afterwards."""

from __future__ import annotations

import pytest
import torch

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig, build_trial_config
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.errors import EnvironmentFault, InputError, TrainingError
from reranker.modeling.compiled_layers import check_compiler
from reranker.modeling.device import best_device
from reranker.modeling.model_cache import BaseModels
from reranker.training.sft import fine_tune

SHARED = TrialConfig(
    model="demo-tiny",
    examples_per_user=1,
    epochs=1,
    effective_batch=16,
    list_sharing=4,
    skill_steps=0,
    learning_rate=5e-3,
)


@pytest.fixture(scope="module")
def small() -> RerankingData:
    return RerankingData.prepare(DemoData(users=64, interactions_per_user=8))


@pytest.mark.slow
def test_compiled_layers_learn_what_others_learn_and_are_as_before_afterwards(small, tmp_path):
    bases, losses = BaseModels(), {}
    for compiled in (False, True):
        folder = TrialFolder(tmp_path / str(compiled))
        config = SHARED.model_copy(update={"compile_layers": compiled})
        fine_tune(config, small, folder=folder, bases=bases)
        losses[compiled] = [(report["train_loss"], report["val_loss"]) for report in folder.read_reports()]
    assert losses[True] == [pytest.approx(pair, abs=2e-5) for pair in losses[False]]
    assert losses[True] != losses[False]  # the kernels are others
    with bases.base(SHARED, best_device()) as base:
        assert not any("forward" in vars(layer) for layer in base.get_decoder().layers)


@pytest.mark.slow
def test_a_compiler_that_fails_is_the_trial_s_fault_with_a_way_out(small, tmp_path, monkeypatch):
    torch.compiler.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/bin/false",))
    with pytest.raises(TrainingError, match=r"layers can't be compiled here, .*; compile_layers: false does without"):
        fine_tune(SHARED.model_copy(update={"compile_layers": True}), small)


def test_a_machine_without_a_compiler_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(EnvironmentFault, match=r"compile_layers needs a C\+\+ compiler"):
        check_compiler(on_gpu=False)


@pytest.mark.parametrize(
    ("knobs", "rule"),
    [
        ({"gradient_checkpointing": True}, "with gradient_checkpointing: true, which runs layers as they are"),
        ({"shard_base": True}, "with quantisation or shard_base: true"),
        ({"quantisation": "nf4"}, "with quantisation or shard_base: true"),
    ],
)
def test_what_it_was_never_tried_with_is_refused(knobs, rule):
    with pytest.raises(InputError, match=f"compile_layers must be auto or false {rule}"):
        build_trial_config({"compile_layers": True, **knobs})
