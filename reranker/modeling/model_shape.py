"""The sizes of a decoder, from its configuration: what its memory and its speed follow from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that decide about its memory and its work."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = True  # the output layer's weights are the embeddings
    qk_norm: bool = False  # queries and keys are normalised

    @property
    def parameters(self) -> int:
        """Of all weights, norms left out."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * (attention + 3 * self.hidden * self.intermediate)


def read_shape(path: Path) -> Shape | None:
    """A shape out of a transformers configuration; None if the file is not one of a decoder."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
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
        )
    except (OSError, KeyError, ValueError):
        return None
