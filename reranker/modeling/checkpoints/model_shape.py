"""The sizes of a decoder, from its configuration; they determine its memory and speed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tower:
    """The sizes of what turns an image's patches into embeddings for a decoder."""

    layers: int
    hidden: int
    intermediate: int
    out: int  # of an embedding
    mergers: int = 4  # of patches into embeddings: the last one, and those for the decoder's first layers
    places: int = 2304  # with an embedding of their own
    merged: int = 4  # patches an embedding

    @property
    def targets(self) -> list[tuple[int, int]]:
        """(input, output) widths of all linear layers."""
        h, wide = self.hidden, self.merged * self.hidden
        block = [(h, 3 * h), (h, h), (h, self.intermediate), (self.intermediate, h)]
        return block * self.layers + [(wide, wide), (wide, self.out)] * self.mergers

    @property
    def parameters(self) -> int:
        """The number of weights, without norms and biases; a patch is 16 × 16 pixels of 3 colours at 2 times."""
        return sum(i * o for i, o in self.targets) + (self.places + 3 * 2 * 16 * 16) * self.hidden


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that determine its memory and work."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = True  # the output layer's weights are the embeddings
    qk_norm: bool = False  # queries and keys are normalised
    tower: Tower | None = None  # that reads images
    shards: int = 1  # workers that divide the layers' weights among them

    @property
    def embeddings(self) -> int:
        """Those of the embeddings and the output layer."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """The number of weights, without norms."""
        tower = 0 if self.tower is None else self.tower.parameters
        return self.embeddings + self.layers * self.layer + tower

    @property
    def layer(self) -> int:
        """Those of a layer."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate


def read_shape(path: Path) -> Shape | None:
    """The shape in a transformers configuration; None if it is not that of a decoder."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        facts = {**whole, **whole.get("text_config", {})}  # a model that reads images too nests that of its decoder
        heads = facts["num_attention_heads"]
        return Shape(
            layers=facts["num_hidden_layers"],
            hidden=facts["hidden_size"],
            heads=heads,
            kv_heads=facts.get("num_key_value_heads", heads),
            head_dim=facts.get("head_dim") or facts["hidden_size"] // heads,
            intermediate=facts["intermediate_size"],
            vocabulary=facts["vocab_size"],
            tied=facts.get("tie_word_embeddings", True),
            qk_norm=facts.get("model_type", "").startswith(("qwen3", "gemma3")),
            tower=_tower(whole["vision_config"]) if whole.get("model_type") == "qwen3_vl" else None,
        )
    except (OSError, KeyError, ValueError, TypeError, AttributeError, ZeroDivisionError, RecursionError):
        return None


def _tower(facts: dict[str, Any]) -> Tower:
    return Tower(
        layers=facts["depth"],
        hidden=facts["hidden_size"],
        intermediate=facts["intermediate_size"],
        out=facts["out_hidden_size"],
        mergers=1 + len(facts["deepstack_visual_indexes"]),
        places=facts["num_position_embeddings"],
        merged=facts["spatial_merge_size"] ** 2,
    )
