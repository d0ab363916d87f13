"""What stays loaded from one training to the next: base models, their tokenizers, and the catalogue in their tokens."""

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
    """Lends a base with a fresh adapter; drops the least recently used bases where they grow too large together.

    Args:
        most_bytes: of all of them; the last one used is always kept. None: a quarter of the device's memory.
    """

    def __init__(self, most_bytes: float | None = None) -> None:
        self._most = device_memory()[1] / 4 if most_bytes is None else most_bytes
        self._catalogues: dict[str, tuple[tuple[str, ...], Catalogue]] = {}
        self._bases: dict[tuple[str, torch.dtype], PreTrainedModel] = {}  # the most recently used last

    def catalogue(self, model: str, item_texts: Sequence[str]) -> Catalogue:
        """The items as the model's tokenizer reads them; those of a model's last call are kept.

        Raises:
            InputError: the model does not know their words.
        """
        texts = tuple(item_texts)
        known = self._catalogues.get(model)
        if known is None or known[0] != texts:
            known = texts, Catalogue(load_tokenizer(model) if known is None else known[1].tokenizer, texts)
            known[1].check(model)
            self._catalogues[model] = known
        return known[1]

    @contextmanager
    def base(self, config: TrialConfig, device: torch.device) -> Iterator[PreTrainedModel]:
        """The configuration's base as it is. After an exception it is not used another time."""
        key = (config.model, base_dtype(config, device))
        base = self._bases.pop(key, None) or load_base(config, device)
        yield base
        base.activation_checkpointing_disable()
        base.disable_input_require_grads()
        give_back()
        vars(base).pop("forward", None)  # trl wraps it for each training, and would wrap it once more the next time
        self._bases[key] = base
        while len(self._bases) > 1 and sum(map(_bytes, self._bases.values())) > self._most:
            del self._bases[next(iter(self._bases))]

    @contextmanager
    def adapted(self, config: TrialConfig, device: torch.device, skill: Skill | None = None) -> Iterator[PeftModel]:
        """The base, with this skill, and an adapter that is drawn from the seed whether or not the base was there already.

        Both are taken off again afterwards.
        """
        with self.base(config, device) as base:
            set_seed(config.seed)
            model = attach_lora(base, config)
            with skilled(model, skill, device):
                yield model
            model.unload()

    @property
    def loaded(self) -> list[str]:
        """The models that are here, the most recently used last."""
        return [model for model, _ in self._bases]


def _bytes(model: PreTrainedModel) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
