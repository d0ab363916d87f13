"""What stays loaded between trainings: base models, their tokenizers, and the tokenised catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import PeftModel
from transformers import PreTrainedModel, set_seed

from reranker.config import TrialConfig
from reranker.data.item_token_cache import Catalogue
from reranker.modeling.checkpoints import base_dtype, load_base, load_tokenizer
from reranker.modeling.freed_memory import give_back
from reranker.modeling.label_skill import Skill, skilled
from reranker.modeling.lora import attach_lora
from reranker.modeling.memory_estimate import device_memory


class BaseModels:
    """Lends a base with a fresh adapter; drops the least recently used bases if all together are too large.

    Args:
        most_bytes: of all bases; the last one used is always kept. None: a quarter of the device's memory.
    """

    def __init__(self, most_bytes: float | None = None) -> None:
        self._most = device_memory().total / 4 if most_bytes is None else most_bytes
        self._catalogues: dict[str, tuple[tuple[str, ...], Catalogue]] = {}
        self._bases: dict[tuple[str, str, torch.dtype], PreTrainedModel] = {}  # most recently used last

    def catalogue(self, model: str, item_texts: Sequence[str]) -> Catalogue:
        """The items for the model's tokenizer; each model's last catalogue is cached.

        Raises:
            InputError: the tokenizer does not know the items' words.
        """
        texts = tuple(item_texts)
        cached = self._catalogues.get(model)
        if cached is None or cached[0] != texts:
            cached = texts, Catalogue(load_tokenizer(model) if cached is None else cached[1].tokenizer, texts)
            cached[1].check(model)
            self._catalogues[model] = cached
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

    @property
    def loaded(self) -> list[str]:
        """The names of the loaded models, most recently used last."""
        return [model for model, _, _ in self._bases]


def _bytes(model: PreTrainedModel) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
