"""An adapter's layers, and the skill beside them, in two thin products a layer instead of four and the sums between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import Tensor

_ADAPTER = "default"  # peft's name of the only one


def fuse(model: PeftModel, parts: Mapping[str, LowRank] | None = None) -> None:
    """Have each adapted layer compute x ↦ Wx + b + [scale · B, up] [A; down] x, with `down` and `up` of its frozen part.

    The numbers are those of peft's own layer up to rounding. Under autocast an fp32 adapter's input stays as it is: peft would
    make it fp32, of which autocast makes bf16 again, kept once more for the backward pass by every layer.

    Args:
        parts: by the layer's name in the base; not every layer has one.
    """
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, Linear):
            layer.forward = _Fused(layer, (parts or {}).get(name))


class LowRank:
    """A frozen part of a linear layer: `down` [rank, inputs], `up` [outputs, rank], on the layer's device."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        self.down, self.up = down, up

    def __call__(self, layer: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """As a forward hook of a layer without an adapter."""
        (given,) = inputs
        return _add(output, F.linear(_as(given, self.down), self.down), self.up)


class _Fused:
    def __init__(self, layer: Linear, part: LowRank | None) -> None:
        self._layer, self._part = layer, part

    def __call__(self, given: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer, part = self._layer, self._part
        result: Tensor = layer.base_layer(given, *args, **kwargs)
        if layer.merged:
            return result if part is None else part(layer.base_layer, (given,), result)
        down, up = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
        scale, dropout = layer.scaling[_ADAPTER], layer.lora_dropout[_ADAPTER]
        given = _as(given, down)
        if part is None:
            return _add(result, F.linear(dropout(given), down), up, scale)
        up = torch.cat([scale * up, part.up], dim=1)
        if isinstance(dropout, torch.nn.Dropout) and layer.training:  # of the adapter's input alone
            inner = torch.cat([F.linear(dropout(given), down), F.linear(given, part.down)], dim=-1)
        else:
            inner = F.linear(given, torch.cat([down, part.down]))
        return _add(result, inner, up)


def _as(given: Tensor, weight: Tensor) -> Tensor:
    return given if torch.is_autocast_enabled(given.device.type) else given.to(weight.dtype)


def _add(result: Tensor, inner: Tensor, up: Tensor, scale: float = 1.0) -> Tensor:
    """result + scale · up · inner, in the result's type."""
    if result.dtype != inner.dtype:
        return result + (scale * F.linear(inner, up)).to(result.dtype)
    return torch.addmm(result.flatten(0, -2), inner.flatten(0, -2), up.t(), alpha=scale).view_as(result)
