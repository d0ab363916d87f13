"""A base whose layers are divided among the workers of a training (FSDP2): each holds a part of every layer, and has a
whole one only while that computes.

Embeddings, the last norm, the output layer and a vision tower are whole on each worker, and so is an adapter that is put
on top. To make a layer whole is a message among the workers, so all of them must make equally many passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from reranker.modeling.process_group import of_all

if TYPE_CHECKING:
    from peft import PeftModel  # takes seconds
    from torch.distributed.device_mesh import DeviceMesh


_MARK = "is_divided_among_workers"  # the attribute of such a base


def divide(base: PreTrainedModel, mesh: DeviceMesh, device: torch.device) -> None:
    """Put this worker's part of each layer on the device, and all else of the base.

    Args:
        mesh: of the workers.
    """
    from torch.distributed.fsdp import fully_shard  # takes long, and is needed only here

    decoder: Any = base.get_decoder()
    in_layers = {tensor for layer in decoder.layers for tensor in chain(layer.parameters(), layer.buffers())}
    others = {tensor for tensor in chain(base.parameters(), base.buffers()) if tensor not in in_layers}
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(decoder, mesh=mesh, ignored_params=others)  # has the next layer made whole while one computes
    for tensor in others:
        tensor.data = tensor.data.to(device)
    setattr(base, _MARK, True)


def is_divided(model: PreTrainedModel | PeftModel) -> bool:
    """Whether its layers are divided among workers."""
    return getattr(model, _MARK, False)  # peft's models have their base's attributes


def passes_missing(model: PreTrainedModel | PeftModel, mine: int) -> int:
    """How many more passes the busiest worker makes than this one, which makes `mine`; 0 where the base is not divided."""
    return int(max(of_all(mine))) - mine if is_divided(model) else 0


def idle_pass(model: PreTrainedModel | PeftModel) -> None:
    """Take part in the forward pass of other workers, with a single token."""
    token = torch.zeros(1, 1, dtype=torch.long, device=model.get_input_embeddings().weight.device)
    with torch.no_grad():
        model(input_ids=token, use_cache=False)


def with_whole_weights(base: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """Its modules by name, those of a divided layer while it is whole. Go through all of them, on all workers."""
    decoder: Any = base.get_decoder()
    layers, whole = list(decoder.layers) if is_divided(base) else [], None
    for name, module in base.named_modules():
        if module in layers:
            if whole is not None:
                whole.reshard()
            whole = module
            whole.unshard()
        yield name, module
    if whole is not None:
        whole.reshard()
