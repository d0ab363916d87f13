"""The processes that train together: their number, this one's rank, and shared values."""

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
    """The number of this process among them, from 0."""
    return dist.get_rank() if workers() > 1 else 0


def wait_for_all() -> None:
    """Wait until every worker gets here."""
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
    """Replace each tensor by its sum over the workers, with a single message."""
    if workers() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    begin = 0
    for tensor in tensors:
        tensor.copy_(flat[begin : begin + tensor.numel()].view_as(tensor))
        begin += tensor.numel()


def gathered(mine: NDArray[Any], count: int) -> NDArray[Any]:
    """All `count` rows, on every worker; each worker passes every `workers()`-th row, starting at its rank."""
    if workers() == 1:
        return mine
    everything = np.empty((count, *mine.shape[1:]), dtype=mine.dtype)
    for rank, part in enumerate(of_all(mine)):
        everything[rank :: workers()] = part
    return everything
