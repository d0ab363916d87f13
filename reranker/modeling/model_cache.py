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
from reranker.modeling.checkpoints.model_files import shape_of
from reranker.modeling.device import own_memory
from reranker.modeling.item_catalogue import item_catalogue
from reranker.modeling.lora.label_skill import Skill, skilled
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.memory.base_sharding import divides
from reranker.modeling.memory.freed_memory import give_back
from reranker.modeling.memory.memory_estimate import device_memory
from reranker.modeling.model_loading import base_dtype, load_base, load_divided
from reranker.modeling.process_group import of_all, workers


class BaseModels:
    """Lends a base with a fresh adapter; drops the least recently used bases if all together are too large.

    Args:
        most_bytes: of all bases; the last one used is always kept. None: a quarter of the device's memory.
    """

    def __init__(self, most_bytes: float | None = None) -> None:
        self._most = device_memory().total / 4 if most_bytes is None else most_bytes
        self._catalogues: dict[tuple[str, ImageMode, int], tuple[str, Catalogue]] = {}
        self._bases: dict[tuple[str, str, torch.dtype, bool], PreTrainedModel] = {}  # most recently used last
        self._divided: dict[tuple[object, ...], bool] = {}

    def catalogue(self, config: TrialConfig, data: RerankingData) -> Catalogue:
        """The items as the model reads them, see `item_catalogue`; the last one of each model and way to read is cached."""
        key = config.model, config.image_mode, config.max_image_pixels
        cached = self._catalogues.get(key)
        if cached is None or cached[0] != data.interactions.fingerprint:
            catalogue = item_catalogue(config, data, None if cached is None else cached[1].tokenizer)
            cached = self._catalogues[key] = data.interactions.fingerprint, catalogue
        return cached[1]

    def divides(self, config: TrialConfig, device: torch.device) -> bool:
        """Whether the workers divide the base's layers among them, the same on all of them and for each training."""
        key = config.model, config.quantisation, config.shard_base, config.dora
        if key not in self._divided:
            mine = divides(config, shape_of(config.model), device.type, own_memory(device), workers())
            self._divided[key] = any(of_all(mine))
        return self._divided[key]

    @contextmanager
    def base(self, config: TrialConfig, device: torch.device) -> Iterator[PreTrainedModel]:
        """Lend the configuration's base, unchanged. After an exception it is not used again."""
        is_divided = self.divides(config, device)
        key = (config.model, config.quantisation, base_dtype(config, device), is_divided)
        base = self._bases.pop(key, None)
        if is_divided and not all(of_all(base is not None)):
            base = load_divided(config, device)
        base = base or load_base(config, device)
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
        return [model for model, *_ in self._bases]


def _bytes(model: PreTrainedModel) -> int:
    """Of what is held here, which of a divided base is a part."""
    local = [p.to_local() if hasattr(p, "to_local") else p for p in model.parameters()]
    return sum(parameter.numel() * parameter.element_size() for parameter in local)
