"""A causal model that computes no more than its answer needs: the last positions in its last block, the labels' logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def only_answers(
    model: PreTrainedModel | PeftModel,
    labels: Tensor | None = None,
    positions: int | Tensor = 1,
    *,
    mass: bool = False,
) -> Iterator[None]:
    """Call the model with `logits_to_keep=positions` meanwhile: what it gives there is what it would give without.

    The last block's output projection and MLP see the `positions` alone, since no later block asks for the others.
    The training's backward pass must lie within too where gradient checkpointing runs the block again.

    Args:
        labels: token ids; the logits are then theirs alone, in fp32 (in bf16 the target's logit would tie with another
            candidate's in most lists), [rows, positions, labels]. None: the whole vocabulary's.
        positions: how many of the last ones, or which columns.
        mass: after the labels' logits comes the logarithm of the sum of all words' exponentiated ones.
    """
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(causal, PreTrainedModel)
    block: Any = causal.get_decoder().layers[-1]
    handles = []
    for module in (block.self_attn.o_proj, block.mlp):
        at = _Positions(positions)
        handles += [module.register_forward_pre_hook(at.cut), module.register_forward_hook(at.fill)]
    head = causal.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    if labels is not None:
        causal.set_output_embeddings(_LabelRows(head, labels, mass))
    try:
        yield
    finally:
        if labels is not None:
            causal.set_output_embeddings(head)
        for handle in handles:
            handle.remove()


class _Positions:
    """Hooks around a module that works position by position: it sees some columns, the others come out as zeros."""

    def __init__(self, wanted: int | Tensor) -> None:
        self._wanted = wanted
        self._count = 0

    def cut(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = inputs
        self._count = hidden.shape[1]
        return hidden[:, self._columns(hidden)], *rest

    def fill(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        rows, _, width = output.shape
        return output.new_zeros(rows, self._count, width).index_copy(1, self._columns(output), output)

    def _columns(self, like: Tensor) -> Tensor:
        if isinstance(self._wanted, Tensor):
            return self._wanted
        return torch.arange(max(0, self._count - self._wanted), self._count, device=like.device)


class _LabelRows(nn.Module):
    """The rows of an output layer that belong to the labels, in fp32."""

    def __init__(self, head: nn.Linear, labels: Tensor, mass: bool) -> None:
        super().__init__()
        self._weight = head.weight.detach()[labels].float()
        self._bias = None if head.bias is None else head.bias.detach()[labels].float()
        self._whole = [head] if mass else []  # in a list, or it would be a part of this module

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            logits = nn.functional.linear(hidden.float(), self._weight, self._bias)
            for head in self._whole:
                everything = head(hidden.to(head.weight.dtype)).float().logsumexp(dim=-1, keepdim=True)
                logits = torch.cat([logits, everything], dim=-1)
        return logits
