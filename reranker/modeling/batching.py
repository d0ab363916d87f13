"""Rows of token ids of different lengths → batches with little padding, as right-padded tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def by_length(lengths: Sequence[int], most_tokens: int | None, most_rows: int | None = None) -> Iterator[list[int]]:
    """Batches of positions of rows with similar length, longest first, within both limits; at least one row each.

    Args:
        most_tokens: of a batch, with its padding.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        too_wide = most_tokens is not None and (len(batch) + 1) * lengths[batch[0] if batch else i] > most_tokens
        if batch and (too_wide or len(batch) == most_rows):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pad_right(rows: Sequence[Sequence[int]], pad: int) -> dict[str, Tensor]:
    """`input_ids` [rows, longest row], which begin at the first column, and `ends` [rows], each row's last column.

    A causal model looks at nothing to the right, so the rows need no mask, and attention can use its fastest kernels.
    """
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return {"input_ids": ids, "ends": torch.tensor([len(row) - 1 for row in rows])}


def last_columns(ends: Tensor, positions: int) -> Tensor:
    """The last `positions` columns of each row that ends there, [rows, positions]."""
    return ends[:, None] + torch.arange(1 - positions, 1, device=ends.device)
