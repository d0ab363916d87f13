"""The sizes of a decoder, from its configuration; they determine its memory and speed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


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

    @property
    def embeddings(self) -> int:
        """Those of the embeddings and the output layer."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """The number of weights, without norms."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.embeddings + self.layers * (attention + 3 * self.hidden * self.intermediate)


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
        )
    except (OSError, KeyError, ValueError):
        return None
