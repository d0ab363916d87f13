"""What stays loaded between trainings: base models, their tokenizers, and the tokenised catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from transformers import PreTrainedModel, set_seed

from reranker.config import ImageMode, TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.item_token_cache import Catalogue
from reranker.modeling.item_catalogue import item_catalogue
from reranker.modeling.lora.label_skill import Skill, skilled
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.memory.freed_memory import give_back
from reranker.modeling.memory.memory_estimate import device_memory
from reranker.modeling.model_loading import base_dtype, load_base


class BaseModels:
    """Lends a base with a fresh adapter; drops the least recently used bases if all together are too large.

    Args:
        most_bytes: of all bases; the last one used is always kept. None: a quarter of the device's memory.
    """

    def __init__(self, most_bytes: float | None = None) -> None:
        self._most = device_memory().total / 4 if most_bytes is None else most_bytes
        self._catalogues: dict[tuple[str, ImageMode, int], tuple[str, Catalogue]] = {}
        self._bases: dict[tuple[str, str, torch.dtype], PreTrainedModel] = {}  # most recently used last

    def catalogue(self, config: TrialConfig, data: RerankingData) -> Catalogue:
        """The items as the model reads them, see `item_catalogue`; the last one of each model and way to read is cached."""
        key = config.model, config.image_mode, config.max_image_pixels
        cached = self._catalogues.get(key)
        if cached is None or cached[0] != data.interactions.fingerprint:
            catalogue = item_catalogue(config, data, None if cached is None else cached[1].tokenizer)
            cached = self._catalogues[key] = data.interactions.fingerprint, catalogue
        return cached[1]

    @contextmanager
    def base(self, config: TrialConfig, device: torch.device) -> Iterator[PreTrainedModel]:
        """Lend the configuration's base, unchanged. After an exception it is not used again."""
        key = (config.model, config.quantisation, base_dtype(config, device))
        base = self._bases.pop(key, None) or load_base(config, device)
        yield base
        base.activation_checkpointing_disable()
        base.disable_input_require_grads()
        give_back()
        vars(base).pop("forward", None)  # trl wraps it for each training, and would wrap it again
        self._bases[key] = base
        while len(self._bases) > 1 and sum(map(_bytes, self._bases.values())) > self._most:
            del self._bases[next(iter(self._bases))]

    @contextmanager
    def adapted(self, config: TrialConfig, device: torch.device, skill: Skill | None = None) -> Iterator[PeftModel]:
        """Lend the base with this skill and a new adapter, which depends only on the seed, not on the cache.

        Both are removed afterwards.
        """
        with self.base(config, device) as base:
            set_seed(config.seed)
            model = attach_lora(base, config)
            with skilled(model, skill, device):
                yield model
            model.unload()

    def drop_idle(self) -> None:
        """Drop the bases that are not lent, so that another try has their memory."""
        self._bases.clear()
        give_back()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def loaded(self) -> list[str]:
        """The names of the loaded models, most recently used last."""
        return [model for model, _, _ in self._bases]


def _bytes(model: PreTrainedModel) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
