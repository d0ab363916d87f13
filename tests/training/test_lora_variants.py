"""Variants of LoRA: each starts where it should, trains what it says, and is stored as an adapter that peft can load."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig, build_trial_config
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.errors import InputError
from reranker.evaluation.evaluate import evaluate
from reranker.evaluation.scoring import EncodedLists, score
from reranker.modeling.lora.fused_lora import LowRank, fuse
from reranker.modeling.lora.label_skill import Skill
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.lora.lora_start import start_at_base
from reranker.modeling.model_cache import BaseModels
from reranker.modeling.model_loading import load_base
from reranker.prompting.prompts import PromptEncoder
from reranker.training import trainer
from reranker.training.sft import fine_tune

pytestmark = pytest.mark.usefixtures("own_cache")
CPU = torch.device("cpu")
IDS = torch.arange(10, 70).reshape(2, 30)
SMALL = TrialConfig(
    model="demo-tiny", candidates=8, epochs=1, examples_per_user=2, learning_rate=2e-3, lora_rank=4, skill_steps=3
)
VARIANTS = [{"rslora": True}, {"dora": True}, {"lora_init": "pissa"}, {"lora_init": "olora"}, {"lora_plus_ratio": 8.0}]


@pytest.fixture(scope="module")
def small() -> RerankingData:
    return RerankingData.prepare(DemoData(users=64))


def variant(**knobs) -> TrialConfig:
    return SMALL.model_copy(update=knobs)


def some_skill(model: PeftModel) -> Skill:
    torch.manual_seed(5)
    layers = {name: part for name, part in model.get_base_model().named_modules() if isinstance(part, Linear)}
    down = {name: torch.randn(3, part.in_features) / 10 for name, part in layers.items()}
    return Skill(down, {name: torch.randn(part.out_features, 3) / 10 for name, part in layers.items()}, {})


@pytest.mark.slow
@pytest.mark.parametrize("knobs", VARIANTS, ids=str)
@pytest.mark.parametrize("skill_steps", [0, 3])
def test_peft_alone_gives_what_the_trial_scored(small, tmp_path, knobs, skill_steps):
    config = variant(**knobs, skill_steps=skill_steps)
    report = fine_tune(config, small, folder=TrialFolder(tmp_path / "trial"))
    encoder = PromptEncoder(BaseModels().catalogue(config, small), config)
    lists = small.validation(config)
    loaded = PeftModel.from_pretrained(load_base(config, CPU), str(tmp_path / "trial" / "adapter")).eval()
    figures = evaluate(
        score(loaded, EncodedLists.of(encoder, lists)), np.array([e.target for e in lists]), None, 1.0
    ).figures
    assert figures["val_loss"] == pytest.approx(report.figures["val_loss"], abs=2e-4)


@pytest.mark.parametrize("lora_init", ["pissa", "olora"])
@pytest.mark.parametrize("has_skill", [False, True])
def test_an_adapter_that_starts_at_the_base_does_not_change_its_answers(lora_init, has_skill):
    config = variant(lora_init=lora_init)
    base = load_base(config, CPU)
    torch.manual_seed(0)
    model = attach_lora(base, config)
    skill = some_skill(model) if has_skill else None
    parts = {} if skill is None else {name: LowRank(down, skill.up[name]) for name, down in skill.down.items()}
    fuse(model, parts)
    with torch.no_grad():
        before = model(IDS).logits
        frozen = start_at_base(model, config, skill)
        torch.testing.assert_close(model(IDS).logits, before, rtol=1e-3, atol=1e-4)
    assert frozen is not None
    for layer in model.modules():
        if isinstance(layer, Linear):
            assert layer.lora_B["default"].weight.abs().max() > 0


def test_pissa_takes_the_largest_singular_values_of_a_layer():
    config = variant(lora_init="pissa", lora_rank=8)
    model = attach_lora(load_base(config, CPU), config)
    start_at_base(model, config, None)
    layer = next(part for part in model.modules() if isinstance(part, Linear))
    values, taken = (
        torch.linalg.svdvals(matrix.detach()).numpy()[:8]
        for matrix in (layer.base_layer.weight, layer.get_delta_weight("default"))
    )
    assert taken == pytest.approx(values, rel=0.02)


def test_dora_with_a_frozen_part_is_peft_s_dora_on_weights_that_hold_it():
    config = variant(dora=True)
    torch.manual_seed(0)
    ours = attach_lora(load_base(config, CPU), config)
    skill = some_skill(ours)
    fuse(ours, {name: LowRank(down, skill.up[name]) for name, down in skill.down.items()})
    base = load_base(config, CPU)
    with torch.no_grad():
        for name, down in skill.down.items():
            base.get_submodule(name).weight += skill.up[name] @ down
    theirs = attach_lora(base, config)
    state = {
        name: torch.randn_like(p) / 10 for name, p in ours.named_parameters() if "lora_A" in name or "lora_B" in name
    }
    gradients = []
    for model in (ours, theirs):
        model.load_state_dict(state, strict=False)
        logits = model(IDS).logits
        logits.logsumexp(dim=-1).sum().backward()
        trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        assert sum("magnitude" in name for name in trained) == len(skill.down)
        gradients.append([logits.detach(), *(trained[name] for name in sorted(trained))])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_rank_stabilised_adapters_are_scaled_by_the_root_of_the_rank():
    model = attach_lora(load_base(SMALL, CPU), variant(rslora=True, lora_rank=16, lora_alpha=8))
    layer = next(part for part in model.modules() if isinstance(part, Linear))
    assert layer.scaling["default"] == 2.0


def test_b_s_rate_is_the_ratio_times_a_s_through_the_whole_schedule(small, monkeypatch):
    rates = []

    class Watched(trainer.RerankerTrainer):
        def training_step(self, *args, **kwargs):
            names = {id(p): name for name, p in self.model.named_parameters()}
            rates.append(
                {
                    "lora_B" in names[id(p)]: group["lr"]
                    for group in self.optimizer.param_groups
                    for p in group["params"]
                }
            )
            return super().training_step(*args, **kwargs)

    monkeypatch.setattr("reranker.training.sft.RerankerTrainer", Watched)
    report = fine_tune(variant(lora_plus_ratio=4.0, schedule="cosine", skill_steps=0), small)
    assert len(rates) == 4
    assert all(rate[True] == pytest.approx(4 * rate[False]) for rate in rates)
    assert max(rate[False] for rate in rates) == report.figures["applied/learning_rate"]


@pytest.mark.slow
@pytest.mark.parametrize("knobs", VARIANTS, ids=str)
def test_a_training_that_goes_on_gives_exactly_what_one_without_a_break_gives(small, tmp_path, knobs):
    config, whole, broken = variant(**knobs, epochs=2), TrialFolder(tmp_path / "a"), TrialFolder(tmp_path / "b")
    fine_tune(config, small, folder=whole, resume=True)
    fine_tune(config, small, folder=broken, resume=True, on_report=lambda report: False)
    fine_tune(config, small, folder=broken, resume=True)
    first, second = ([(r["val_loss"], r["train_loss"]) for r in folder.read_reports()] for folder in (whole, broken))
    assert len(first) == 2
    assert first == second


@pytest.mark.parametrize(
    ("knobs", "rule"),
    [
        ({"dora": True, "lora_init": "pissa"}, "dora must be left out with lora_init: pissa or olora"),
        ({"dora": True, "shard_base": True}, "shard_base must be auto or false with dora or quantisation: both need"),
        ({"quantisation": "nf4", "shard_base": True}, "shard_base must be auto or false with dora or quantisation"),
        ({"dora": True, "lora_targets": "qv"}, "dora must be left out unless lora_targets is all_linear"),
        ({"lora_plus_ratio": 0.5}, "must be at least 1"),
    ],
)
def test_variants_that_do_not_go_together_are_refused(knobs, rule):
    with pytest.raises(InputError, match=rule):
        build_trial_config({"model": "demo-tiny", **knobs})
