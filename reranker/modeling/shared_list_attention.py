"""Many questions after one candidate list: the layout of a batch, and the attention that computes each list once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from reranker.modeling.labels.label_trie import LabelTrie

_ATTENTION = "shared_list"


@dataclass(frozen=True)
class Layout:
    """The layout of a batch's rows: a list, then its branches, each of them padded on the left.

    A branch ends with the nodes of the labels' trie, which do not stand one after the other but beside one another.

    Attributes:
        prefix: columns of the list.
        branches: number of branches after the list.
        width: columns of a branch.
        real: bool [rows, columns], False for padding.
        places: int64 [rows, columns], each token's position in its own text: the list followed by one branch.
        nodes: bool [nodes, nodes], which of the trie's nodes each of them sees.
    """

    prefix: int
    branches: int
    width: int
    real: Tensor
    places: Tensor
    nodes: Tensor
    _masks: dict[int | None, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False)

    def parts(self) -> dict[str, Any]:
        """The fields as a dict: `Layout(**parts)` restores the layout."""
        return {
            "prefix": self.prefix,
            "branches": self.branches,
            "width": self.width,
            "real": self.real,
            "places": self.places,
            "nodes": self.nodes,
        }

    def to(self, device: torch.device) -> Layout:
        """The same layout on this device."""
        real, places, nodes = (part.to(device) for part in (self.real, self.places, self.nodes))
        return Layout(self.prefix, self.branches, self.width, real, places, nodes)

    def masks(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Which columns each token of a list sees within the list, and each token of a branch in list and branch.

        Bool [rows, 1, prefix, prefix] and [rows × branches, 1, width, prefix + width]. Padding sees itself.

        Args:
            window: how many positions back a token sees; None: all.
        """
        if window not in self._masks:
            listed = self.real[:, : self.prefix], self.places[:, : self.prefix]
            real, places = (self._by_branch(x) for x in (self.real, self.places))
            self._masks[window] = (
                _causal(*listed, window)[:, None],
                self._of_trie(_causal(real, places, window))[:, None, self.prefix :],
            )
        return self._masks[window]

    def _of_trie(self, seen: Tensor) -> Tensor:
        """[texts, columns, columns], with the last columns for the trie's nodes, which see those on their own path."""
        if count := len(self.nodes):
            seen[:, -count:, -count:] &= self.nodes
        return seen

    def _by_branch(self, columns: Tensor) -> Tensor:
        """[rows, columns] → [rows × branches, prefix + width]: the list before each of its branches."""
        list_columns = columns[:, None, : self.prefix].expand(-1, self.branches, -1)
        branch_columns = columns[:, self.prefix :].reshape(-1, self.branches, self.width)
        return torch.cat([list_columns, branch_columns], dim=2).flatten(0, 1)

    def ends(self, last: int) -> Tensor:
        """The columns of the last `last` tokens of each branch, the nodes among them, int64 [branches × last]."""
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
    """In this context the model takes a `layout` besides `input_ids` and `position_ids`, and needs no mask."""
    config: Any = model.config.get_text_config()
    previous = config._attn_implementation
    config._attn_implementation = _ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = previous


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
    """Queries [rows, heads, columns, size]; keys, values with as many heads or fewer → [rows, columns, heads, size]."""
    prefix, branches = layout.prefix, layout.branches
    list_mask, branch_mask = layout.masks(sliding_window)
    groups = query.shape[1] // key.shape[1]

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        rows, heads, columns, size = q.shape
        q = q.reshape(rows, heads // groups, groups * columns, size)  # heads that share keys become one longer query
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
        list_part = x[:, None, :, :prefix].expand(-1, branches, -1, -1, -1).flatten(0, 1)
        return torch.cat([list_part, split(x)], dim=2)

    list_output = attend(query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], list_mask)
    branch_output = attend(split(query), behind_list(key), behind_list(value), branch_mask)
    rows, heads, columns, size = query.shape
    branch_output = branch_output.reshape(rows, branches, heads, layout.width, size).transpose(1, 2)
    branch_output = branch_output.reshape(rows, heads, columns - prefix, size)
    return torch.cat([list_output, branch_output], dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attention)


def leave_uncompiled() -> None:
    """Have torch.compile call the attention as it is; it can't compile it for any number of branches (torch 2.13)."""
    AttentionInterface.register(_ATTENTION, torch.compiler.disable(_attention))  # type: ignore[no-untyped-call]


def lay_out(
    prefixes: Sequence[Sequence[int]],
    branches: Sequence[Sequence[Sequence[int]]],
    pad: int,
    trie: LabelTrie | None = None,
) -> tuple[Tensor, Layout]:
    """Token ids [rows, columns], and their layout.

    Args:
        prefixes: each row's list, as tokens.
        branches: each row's questions, the same number in every row.
        trie: of the labels; its nodes are appended to each branch.
    """
    nodes = [] if trie is None else trie.node_tokens
    depths = torch.empty(0, dtype=torch.int64) if trie is None else trie.depths()
    prefix = max(map(len, prefixes))
    width = max(len(ids) for row in branches for ids in row) + len(nodes)
    count = len(branches[0])
    ids = torch.full((len(prefixes), prefix + count * width), pad, dtype=torch.long)
    real = torch.zeros_like(ids, dtype=torch.bool)
    places = torch.zeros_like(ids)
    for row, (listed, questions) in enumerate(zip(prefixes, branches, strict=True)):
        begin = 0
        for block, start in [(listed, 0), *((question, len(listed)) for question in questions)]:
            after = nodes if begin else []
            end = begin + (width if begin else prefix)
            columns = slice(end - len(after) - len(block), end)
            ids[row, columns], real[row, columns] = torch.tensor([*block, *after]), True
            own = torch.arange(start, start + len(block))
            places[row, columns] = torch.cat([own, start + len(block) - 1 + depths]) if after else own
            begin = end
    seen = torch.empty(0, 0, dtype=torch.bool) if trie is None else trie.seen()
    return ids, Layout(prefix, count, width, real, places, seen)
