"""Rows of token ids of different lengths → batches with little padding, as left-padded tensors."""

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


def pad_left(rows: Sequence[Sequence[int]], pad: int) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and `position_ids`, each [rows, longest row]; every row ends at the last column."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
