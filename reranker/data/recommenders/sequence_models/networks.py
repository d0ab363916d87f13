"""Item codes in order of time → a state at each position, whose product with an item's embedding is the item's score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LENGTH = 50  # latest items of a history that are read
_HEADS = 2

Architecture = Literal["sasrec", "gru4rec"]


@dataclass(frozen=True)
class Recipe:
    """What a network is made of and trained with.

    Attributes:
        width: of the embeddings and states.
        layers: of attention, or of recurrence.
        dropout: share of the embeddings' and layers' outputs.
        learning_rate: of Adam, constant.
    """

    architecture: Architecture
    width: int = 64
    layers: int = 2
    dropout: float = 0.3
    learning_rate: float = 1e-3

    def __str__(self) -> str:
        return f"width {self.width}, dropout {self.dropout:g}, rate {self.learning_rate:g}"


class SequenceNetwork(nn.Module):
    """Embeddings of the items, used for input and output alike, around an encoder that never looks ahead.

    Sequences are padded on the right, with any item: what stands there is not seen from the left.
    """

    def __init__(self, recipe: Recipe, items: int) -> None:
        super().__init__()
        self.items = nn.Embedding(items, recipe.width)
        nn.init.normal_(self.items.weight, std=0.02)
        self.bias = nn.Parameter(torch.zeros(items))
        self.dropout = nn.Dropout(recipe.dropout)
        self.encoder = _ENCODERS[recipe.architecture](recipe)
        self._scale = math.sqrt(recipe.width)

    def forward(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """States [rows, length, width] of codes [rows, length], of which the first `lengths` [rows], LENGTH at most, are
        no padding."""
        states: Tensor = self.encoder(self.dropout(self.items(codes) * self._scale), lengths)
        return states

    def scores(self, states: Tensor, items: Tensor) -> Tensor:
        """Scores [rows, n] of states [rows, width] and items [rows, n]."""
        embedded = F.embedding(items, self.items.weight)
        return torch.einsum("rw,rnw->rn", states, embedded) + self.bias[items]


class _SelfAttention(nn.Module):
    """Positions and causal self-attention. Source: Kang and McAuley, Self-attentive sequential recommendation, ICDM
    2018, with the norms before the layers, as is usual since. Positions are counted from the end, so that the last one,
    where lists are scored, is trained with every window."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(LENGTH, recipe.width) * 0.02)
        self.blocks = nn.ModuleList(_Block(recipe) for _ in range(recipe.layers))
        self.norm = nn.LayerNorm(recipe.width)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        places = LENGTH - lengths[:, None] + torch.arange(states.shape[1])
        states = states + F.embedding(places.clamp(max=LENGTH - 1), self.positions)
        for block in self.blocks:
            states = block(states)
        normed: Tensor = self.norm(states)
        return normed


class _Block(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        width = recipe.width
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(recipe.dropout), nn.Linear(width, width)
        )
        self.dropout = nn.Dropout(recipe.dropout)

    def forward(self, states: Tensor) -> Tensor:
        rows, length, width = states.shape
        split = self.queries_keys_values(self.attention_norm(states)).view(rows, length, 3, _HEADS, width // _HEADS)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        states = states + self.dropout(self.mixed(attended.transpose(1, 2).reshape(rows, length, width)))
        fed: Tensor = states + self.dropout(self.feed(self.feed_norm(states)))
        return fed


class _Recurrence(nn.Module):
    """Gated recurrent units. Source: Hidasi et al., Session-based recommendations with recurrent neural networks, ICLR
    2016."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        between = recipe.dropout if recipe.layers > 1 else 0.0
        self.units = nn.GRU(recipe.width, recipe.width, recipe.layers, batch_first=True, dropout=between)
        self.dropout, self.norm = nn.Dropout(recipe.dropout), nn.LayerNorm(recipe.width)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        hidden, _ = self.units(states)
        normed: Tensor = self.norm(self.dropout(hidden))
        return normed


_ENCODERS: dict[Architecture, type[nn.Module]] = {"sasrec": _SelfAttention, "gru4rec": _Recurrence}
