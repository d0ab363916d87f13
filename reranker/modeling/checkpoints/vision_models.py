"""Which architectures read images, and the class of transformers that an architecture is loaded by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig  # takes half a second

READS_IMAGES = ("qwen3_vl",)  # by `model_type`


def reads_images(described: PreTrainedConfig) -> bool:
    """Whether its prompts can hold images."""
    return described.model_type in READS_IMAGES


def auto_class(described: PreTrainedConfig) -> Any:
    """What builds the whole model, with a vision tower if it reads images."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if reads_images(described) else AutoModelForCausalLM


def vision_tower(base: Any) -> Any:
    """The part of a loaded base that turns images into embeddings."""
    return base.model.visual
