"""Fused layers give what peft's own layers give, with and without a frozen part beside the adapter."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora import LoraLayer

from reranker.config import TrialConfig
from reranker.modeling.lora.fused_lora import LowRank, fuse
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.model_loading import load_base

CPU = torch.device("cpu")
IDS = torch.arange(10, 70).reshape(2, 30)


def made(fused: bool, parts: bool = False, training: bool = False, **knobs) -> torch.nn.Module:
    """A model whose adapter says something; the parts are hooks of the base's layers where it is not fused."""
    config = TrialConfig(model="demo-tiny", lora_rank=4, lora_alpha=6, **knobs)
    torch.manual_seed(0)
    model = attach_lora(load_base(config, CPU), config)
    frozen = {}
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            layer.lora_B["default"].weight.data.normal_(std=0.1)
            frozen[name] = LowRank(torch.randn(3, layer.in_features) / 10, torch.randn(layer.out_features, 3) / 10)
            if parts and not fused:
                layer.get_base_layer().register_forward_hook(frozen[name])
    if fused:
        fuse(model, frozen if parts else {})
    return model.train(training)


def output_and_gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    torch.manual_seed(1)
    logits = model(IDS).logits
    logits.float().logsumexp(dim=-1).sum().backward()
    return [logits.detach(), *(p.grad for p in model.parameters() if p.requires_grad)]


@pytest.mark.parametrize("knobs", [{}, {"lora_targets": "qv"}, {"lora_dropout": 0.3, "training": True}])
@pytest.mark.parametrize("parts", [False, True])
def test_fused_layers_and_peft_s_agree(parts, knobs):
    fused, plain = (output_and_gradients(made(way, parts, **knobs)) for way in (True, False))
    assert len(fused) == len(plain) > 4
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("autocast", [False, True])
def test_a_bf16_base_agrees_as_far_as_bf16_goes(autocast):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        fused, plain = (output_and_gradients(made(way, True, precision="bf16")) for way in (True, False))
    for one, other in zip(fused, plain, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).float().norm() < 0.1 * other.float().norm()


def test_a_merged_adapter_is_not_added_twice():
    model = made(fused=True, parts=True)
    with torch.no_grad():
        before = model(IDS).logits
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                layer.merge()
        torch.testing.assert_close(model(IDS).logits, before, rtol=1e-4, atol=1e-4)
