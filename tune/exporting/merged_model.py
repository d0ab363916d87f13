"""An adapter and its base → one model that ranks alike by its labels' logits, as transformers or llama.cpp load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from reranker.config import TrialConfig
from reranker.errors import Fault, InputError
from reranker.modeling.model_loading import base_fingerprint, describe, load_base, load_tokenizer
from reranker.ranking.adapted_base import adapted, check_chat

_CPU = torch.device("cpu")


def merged(folder: Path, config: TrialConfig, trained_on: str) -> PreTrainedModel:
    """The base with the adapter added to its weights, computed in fp32, in the base's own precision.

    Args:
        folder: of the adapter.
        config: of its training.
        trained_on: the fingerprint of its base; empty: not known.

    Raises:
        InputError: the adapter cannot be merged, or does not belong to the base.
        EnvironmentFault: the base is not available.
    """
    if config.quantisation != "none":
        rule = "an adapter that was trained on a base in 4 bits ranks differently when it is merged into the full base"
        raise InputError(
            [Fault(rule, field="quantisation", value=config.quantisation, hint="--form lora keeps it separate")]
        )
    if config.image_mode == "raw_image":
        raise InputError([Fault("models that read images can't be merged here", field="image_mode", value="raw_image")])
    base = load_base(config.model_copy(update={"precision": "fp32"}), _CPU)
    if trained_on and base_fingerprint(base) != trained_on:
        rule = "the base model's weights must be those that the adapter was trained on"
        raise InputError([Fault(rule, str(folder), field="model", value=config.model)])
    check_chat(load_tokenizer(config.model), folder, config.model)
    model: Any = adapted(base, folder, config.model).merge_and_unload(safe_merge=True)
    model.config.use_cache = True
    own = getattr(describe(config.model), "dtype", None)
    return model.to(own if isinstance(own, torch.dtype) else torch.float32).eval()


def save_merged(model: PreTrainedModel, config: TrialConfig, target: Path) -> None:
    """Write the model and its tokenizer into an existing folder."""
    model.save_pretrained(str(target))
    load_tokenizer(config.model).save_pretrained(str(target))
