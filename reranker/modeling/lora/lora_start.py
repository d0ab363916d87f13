"""An adapter that starts at the base's main directions, and the frozen part that keeps the answers as they are at first.

PiSSA (Meng et al. 2024) starts A and B at the largest singular values of a layer's weights, OLoRA (Büyükakyüz 2024) at
the first columns and rows of their QR decomposition. Both take the product away from the weights. Here the weights stay
as they are, since other trials use them: the product is taken away by a frozen low-rank part, as a skill is added.
"""

from __future__ import annotations

import math

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import Tensor

from reranker.config import TrialConfig
from reranker.modeling.lora.fused_lora import LowRank, fuse
from reranker.modeling.lora.label_skill import Skill
from reranker.modeling.sharded_base import with_whole_weights

_ADAPTER = "default"
_ROUNDS, _MORE = 4, 8  # of the randomised SVD: its iterations, and directions that make the wanted ones exact


def start_at_base(model: PeftModel, config: TrialConfig, skill: Skill | None) -> Skill | None:
    """Set A and B by `lora_init`; the skill, with what takes their product away again beside it.

    Depends on the base and torch's random state alone. Nothing is done for `lora_init: zero`.
    """
    if config.lora_init == "zero":
        return skill
    down, up = ({}, {}) if skill is None else (dict(skill.down), dict(skill.up))
    for name, layer in with_whole_weights(model.get_base_model()):
        if not isinstance(layer, Linear):
            continue
        b, a = _principal(layer.base_layer.weight.detach().float(), config)
        scale = layer.scaling[_ADAPTER]
        layer.lora_A[_ADAPTER].weight.data.copy_(a / math.sqrt(scale))
        layer.lora_B[_ADAPTER].weight.data.copy_(b / math.sqrt(scale))
        parts = [a], [-b]
        if name in down:
            parts = [down[name].to(a.device), a], [up[name].to(b.device), -b]
        down[name], up[name] = torch.cat(parts[0]).cpu(), torch.cat(parts[1], dim=1).cpu()
    fuse(model, {name: LowRank(part.to(model.device), up[name].to(model.device)) for name, part in down.items()})
    return Skill(down, up, {} if skill is None else skill.facts)


def _principal(weight: Tensor, config: TrialConfig) -> tuple[Tensor, Tensor]:
    """B [outputs, rank] and A [rank, inputs], whose product is the main part of the weight."""
    rank = min(config.lora_rank, *weight.shape)
    if config.lora_init == "olora":
        q, r = torch.linalg.qr(weight)
        b, a = q[:, :rank], r[:rank]
    else:
        u, values, v = torch.svd_lowrank(weight, min(rank + _MORE, *weight.shape), niter=_ROUNDS)
        roots = values[:rank].sqrt()
        b, a = u[:, :rank] * roots, (v[:, :rank] * roots).T
    missing = config.lora_rank - rank  # a layer narrower than the adapter
    return torch.nn.functional.pad(b, (0, missing)), torch.nn.functional.pad(a, (0, 0, 0, missing))
