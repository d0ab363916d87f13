"""The processes that train together: how many there are, which one this is, and what they agree on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray


def workers() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def worker_rank() -> int:
    return dist.get_rank() if workers() > 1 else 0


def wait_for_all() -> None:
    if workers() > 1:
        dist.barrier()


def of_first(value: Any) -> Any:
    """The first worker's value, on every worker."""
    if workers() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def of_all(value: Any) -> list[Any]:
    """Every worker's value, by rank, on every worker."""
    if workers() == 1:
        return [value]
    values: list[Any] = [None] * workers()
    dist.all_gather_object(values, value)
    return values


def add_up(tensors: list[torch.Tensor]) -> None:
    """Replace each tensor by its sum over the workers, in one message."""
    if workers() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    begin = 0
    for tensor in tensors:
        tensor.copy_(flat[begin : begin + tensor.numel()].view_as(tensor))
        begin += tensor.numel()


def gathered(mine: NDArray[Any], count: int) -> NDArray[Any]:
    """`count` rows on every worker, of which each worker has every so manieth, from its rank on."""
    if workers() == 1:
        return mine
    everything = np.empty((count, *mine.shape[1:]), dtype=mine.dtype)
    for other, part in enumerate(of_all(mine)):
        everything[other :: workers()] = part
    return everything
