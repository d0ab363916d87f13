"""An adapter's layers and the skill, computed by two thin products per layer instead of four and their sums."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

_ADAPTER = "default"  # peft's name for the only adapter


def fuse(model: PeftModel, parts: Mapping[str, LowRank] | None = None) -> None:
    """Make each adapted layer compute x ↦ Wx + b + [scale · B, up] [A; down] x, with `down`, `up` of its frozen part.

    The results equal those of peft's layer up to rounding. Under autocast an fp32 adapter's input stays as it is: peft
    would convert it to fp32 and autocast back to bf16, one more copy per layer for the backward pass.

    Args:
        parts: by the layer's name in the base; not every layer has one.
    """
    for name, layer in model.get_base_model().named_modules():
        if not is_adapted(layer):
            continue
        part = (parts or {}).get(name)
        layer.__class__ = _fused_class(type(layer), trains_magnitude(layer))  # type: ignore[arg-type]  # a class has a hash
        layer.frozen_part = part
        if part is not None and trains_magnitude(layer):  # DoRA starts from the lengths of what it is added to
            layer.lora_magnitude_vector[_ADAPTER].weight.data = layer.lengths()


def is_adapted(layer: torch.nn.Module) -> TypeGuard[LoraLayer]:
    """Whether it is a linear layer, quantised or not, with an adapter."""
    return isinstance(layer, LoraLayer) and isinstance(layer.get_base_layer(), torch.nn.Linear)


def trains_magnitude(layer: torch.nn.Module) -> bool:
    """Whether the layer's adapter is a DoRA, whose row lengths depend on its frozen part too."""
    return _ADAPTER in getattr(layer, "lora_magnitude_vector", {})


class LowRank:
    """A frozen part of a linear layer: `down` [rank, inputs], `up` [outputs, rank], on the layer's device."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        self.down, self.up = down, up

    def __call__(self, layer: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Add the part to the output, as a forward hook of a layer without an adapter."""
        (layer_input,) = inputs
        return _add(output, F.linear(_as(layer_input, self.down), self.down), self.up)


class _Fused(torch.nn.Module):
    """The `forward` of a fused layer. It belongs to its class, so that torch.compile need not compile each layer."""

    frozen_part: LowRank | None

    def forward(self: Any, layer_input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        part = self.frozen_part
        result: Tensor = self.base_layer(layer_input, *args, **kwargs)
        if self.merged:
            return result if part is None else part(self.base_layer, (layer_input,), result)
        down, up = self.lora_A[_ADAPTER].weight, self.lora_B[_ADAPTER].weight
        scale, dropout = self.scaling[_ADAPTER], self.lora_dropout[_ADAPTER]
        layer_input = _as(layer_input, down)
        if part is None:
            return _add(result, F.linear(dropout(layer_input), down), up, scale)
        up = torch.cat([scale * up, part.up], dim=1)
        if isinstance(dropout, torch.nn.Dropout) and self.training:  # only of the adapter's input
            inner = torch.cat([F.linear(dropout(layer_input), down), F.linear(layer_input, part.down)], dim=-1)
        else:
            inner = F.linear(layer_input, torch.cat([down, part.down]))
        return _add(result, inner, up)


class _FusedDora(_Fused):
    """x ↦ m / ‖W'‖ · W'x + b with W' = W + scale · BA + up · down, and its rows' trained lengths m.

    As in the paper (Liu et al. 2024, section 4.3) no gradient goes through the norm.
    """

    def forward(self: Any, layer_input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        bias = self.base_layer.bias
        result = super().forward(layer_input, *args, **kwargs)
        product = result if bias is None else result - bias
        scaled = self.lora_magnitude_vector[_ADAPTER].weight / self.lengths() * product
        answer: Tensor = (scaled if bias is None else scaled + bias).to(result.dtype)
        return answer

    @torch.no_grad()
    def lengths(self: Any) -> Tensor:
        """The norms of the rows of W', fp32 [outputs]."""
        with torch.autocast(self.weight.device.type, enabled=False):
            weight: Tensor = self.base_layer.weight.float() + self.get_delta_weight(_ADAPTER).float()
            if self.frozen_part is not None:
                weight = torch.addmm(weight, self.frozen_part.up, self.frozen_part.down)
        norms: Tensor = torch.linalg.vector_norm(weight, dim=1)
        return norms


@functools.cache
def _fused_class(layer_class: type[torch.nn.Module], with_lengths: bool) -> type[torch.nn.Module]:
    """peft's class of a layer with our `forward`."""
    if issubclass(layer_class, _Fused):
        return layer_class
    ours = _FusedDora if with_lengths else _Fused
    return type(f"Fused{layer_class.__name__}", (ours, layer_class), {})


def _as(layer_input: Tensor, weight: Tensor) -> Tensor:
    return layer_input if torch.is_autocast_enabled(layer_input.device.type) else layer_input.to(weight.dtype)


def _add(result: Tensor, inner: Tensor, up: Tensor, scale: float = 1.0) -> Tensor:
    """result + scale · up · inner, in the result's type."""
    if result.dtype != inner.dtype:
        return result + (scale * F.linear(inner, up)).to(result.dtype)
    return torch.addmm(result.flatten(0, -2), inner.flatten(0, -2), up.t(), alpha=scale).view_as(result)
