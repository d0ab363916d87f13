"""Restrict a causal model to what its answer needs: the last positions in its last block, and the labels' logits."""

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
    whole: bool = False,
) -> Iterator[None]:
    """In this context, call the model with `logits_to_keep=positions`, or `=0` where rows have columns of their own; the
    results are the same, but cheaper.

    The last block's output projection and MLP see only the `positions`, since no later block needs the others. Run the
    backward pass inside this context too, since gradient checkpointing runs the block again.

    Args:
        labels: token ids; only their logits are computed, in fp32 (in bf16 the target's logit would tie with another
            candidate's in most lists), [rows, positions, labels]. None: those of the whole vocabulary.
        positions: how many of the last positions, which columns, or which of each row, [rows, positions].
        whole: append the logits of the whole vocabulary to those of the labels.
    """
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(causal, PreTrainedModel)
    block: Any = causal.get_decoder().layers[-1]
    handles = []
    for module in (block.self_attn.o_proj, block.mlp):
        hooks = _Positions(positions)
        handles += [module.register_forward_pre_hook(hooks.cut), module.register_forward_hook(hooks.fill)]
    head = causal.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    if labels is not None:
        causal.set_output_embeddings(_LabelRows(head, labels, whole))
    if isinstance(positions, Tensor) and positions.ndim == 2:  # which `logits_to_keep` cannot say
        handles.append(causal.get_output_embeddings().register_forward_pre_hook(_Positions(positions).cut))
    try:
        yield
    finally:
        if labels is not None:
            causal.set_output_embeddings(head)
        for handle in handles:
            handle.remove()


class _Positions:
    """Hooks around a module that works position by position: it sees some columns; the output is 0 in the others."""

    def __init__(self, wanted: int | Tensor) -> None:
        self._wanted = wanted
        self._count = 0

    def cut(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = inputs
        self._count = hidden.shape[1]
        columns = self._columns(hidden)
        if columns.ndim == 1:
            return hidden[:, columns], *rest
        return hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[2])), *rest

    def fill(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Any, ...]) -> Any:
        if isinstance(output, tuple):  # a mixture of experts may return its router's choice besides
            return self.fill(module, inputs, output[0]), *output[1:]
        rows, _, width = output.shape
        whole, columns = output.new_zeros(rows, self._count, width), self._columns(output)
        if columns.ndim == 1:
            return whole.index_copy(1, columns, output)
        return whole.scatter(1, columns[..., None].expand(-1, -1, width), output)

    def _columns(self, like: Tensor) -> Tensor:
        if isinstance(self._wanted, Tensor):
            return self._wanted
        return torch.arange(max(0, self._count - self._wanted), self._count, device=like.device)


class _LabelRows(nn.Module):
    """The rows of an output layer that belong to the labels, in fp32."""

    def __init__(self, head: nn.Linear, labels: Tensor, whole: bool) -> None:
        super().__init__()
        self._weight = head.weight.detach()[labels].float()
        self._bias = None if head.bias is None else head.bias.detach()[labels].float()
        self._whole = [head] if whole else []  # in a list, so that it is not registered as a submodule

    def forward(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            logits = nn.functional.linear(hidden.float(), self._weight, self._bias)
            for head in self._whole:
                logits = torch.cat([logits, head(hidden.to(head.weight.dtype)).float()], dim=-1)
        return logits
