"""Many questions behind one candidate list: how a batch of them is laid out, and the attention that runs each list once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

_ATTENTION = "shared_list"


@dataclass(frozen=True)
class Layout:
    """Where things stand in the rows of a batch: a list, padded at its left, then its branches, each padded at its left.

    Attributes:
        prefix: columns of the list.
        branches: how many there are behind it.
        width: columns of a branch.
        real: bool [rows, columns], False where there is padding.
        places: int64 [rows, columns], each token's position in its own text, the list followed by the branch.
    """

    prefix: int
    branches: int
    width: int
    real: Tensor
    places: Tensor
    _masks: dict[int | None, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False)

    def parts(self) -> dict[str, Any]:
        """What `Layout(**parts)` is made of again."""
        return {
            "prefix": self.prefix,
            "branches": self.branches,
            "width": self.width,
            "real": self.real,
            "places": self.places,
        }

    def to(self, device: torch.device) -> Layout:
        return Layout(self.prefix, self.branches, self.width, self.real.to(device), self.places.to(device))

    def masks(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Which columns each token of a list sees among the list's, and each one of a branch among the list's and its own.

        Bool [rows, 1, prefix, prefix] and [rows × branches, 1, width, prefix + width]. What is padding sees itself.

        Args:
            window: how far back a token sees, in positions; None: to the beginning.
        """
        if window not in self._masks:
            listed = self.real[:, : self.prefix], self.places[:, : self.prefix]
            real, places = (self._by_branch(x) for x in (self.real, self.places))
            self._masks[window] = (
                _causal(*listed, window)[:, None],
                _causal(real, places, window)[:, None, self.prefix :],
            )
        return self._masks[window]

    def _by_branch(self, columns: Tensor) -> Tensor:
        """[rows, columns] → [rows × branches, prefix + width], the list before each of its branches."""
        before = columns[:, None, : self.prefix].expand(-1, self.branches, -1)
        own = columns[:, self.prefix :].reshape(-1, self.branches, self.width)
        return torch.cat([before, own], dim=2).flatten(0, 1)

    def ends(self, last: int) -> Tensor:
        """int64 [branches × last]: the columns of the last tokens of each branch."""
        ends = self.prefix + self.width * torch.arange(1, self.branches + 1, device=self.real.device)
        return (ends[:, None] + torch.arange(-last, 0, device=self.real.device)).flatten()


def _causal(real: Tensor, places: Tensor, window: int | None) -> Tensor:
    count = real.shape[1]
    order = torch.arange(count, device=real.device)
    seen = real[:, None, :] & (order[:, None] >= order)
    if window is not None:
        seen &= places[:, :, None] - places[:, None, :] < window
    return seen | torch.eye(count, dtype=torch.bool, device=real.device)


@contextmanager
def sharing(model: PreTrainedModel) -> Iterator[None]:
    """Meanwhile the model takes a `layout` beside `input_ids` and `position_ids`, and needs no mask."""
    config: Any = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = _ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: Layout,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Queries [rows, heads, columns, size] and as many or fewer keys and values → [rows, columns, heads, size]."""
    prefix, branches = layout.prefix, layout.branches
    listed, own = layout.masks(sliding_window)
    groups = query.shape[1] // key.shape[1]

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        rows, heads, columns, size = q.shape
        q = q.reshape(rows, heads // groups, groups * columns, size)  # heads that share keys: one longer query
        if groups > 1:
            mask = mask.repeat(1, 1, groups, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling).reshape(
            rows, heads, columns, size
        )

    def split(x: Tensor) -> Tensor:
        """[rows, heads, columns, size] → [rows × branches, heads, width, size]"""
        rows, heads, _, size = x.shape
        return x[:, :, prefix:].reshape(rows, heads, branches, layout.width, size).transpose(1, 2).flatten(0, 1)

    def behind_list(x: Tensor) -> Tensor:
        before = x[:, None, :, :prefix].expand(-1, branches, -1, -1, -1).flatten(0, 1)
        return torch.cat([before, split(x)], dim=2)

    first = attend(query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], listed)
    rest = attend(split(query), behind_list(key), behind_list(value), own)
    rows, heads, columns, size = query.shape
    rest = rest.reshape(rows, branches, heads, layout.width, size).transpose(1, 2)
    rest = rest.reshape(rows, heads, columns - prefix, size)
    return torch.cat([first, rest], dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attention)


def lay_out(
    prefixes: Sequence[Sequence[int]], branches: Sequence[Sequence[Sequence[int]]], pad: int
) -> tuple[Tensor, Layout]:
    """Token ids [rows, columns] and where they stand.

    Args:
        prefixes: a list's tokens, for each row.
        branches: for each row equally many questions.
    """
    prefix = max(map(len, prefixes))
    width = max(len(ids) for row in branches for ids in row)
    count = len(branches[0])
    ids = torch.full((len(prefixes), prefix + count * width), pad, dtype=torch.long)
    real = torch.zeros_like(ids, dtype=torch.bool)
    places = torch.zeros_like(ids)
    for row, (listed, questions) in enumerate(zip(prefixes, branches, strict=True)):
        begin = 0
        for block, start in [(listed, 0), *((question, len(listed)) for question in questions)]:
            end = begin + (width if begin else prefix)
            at = slice(end - len(block), end)
            ids[row, at], real[row, at] = torch.tensor(block), True
            places[row, at] = torch.arange(start, start + len(block))
            begin = end
    return ids, Layout(prefix, count, width, real, places)
