"""Base models that stay loaded from one training to the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel, set_seed

from reranker.config import TrialConfig
from reranker.memory import device_memory
from reranker.models import attach_lora, base_dtype, load_base


class BaseModels:
    """Lends a base with a fresh adapter; drops the least recently used bases where they grow too large together.

    Args:
        most_bytes: of all of them; the last one used is always kept. None: a quarter of the device's memory.
    """

    def __init__(self, most_bytes: float | None = None) -> None:
        self._most = device_memory()[1] / 4 if most_bytes is None else most_bytes
        self._bases: dict[tuple[str, torch.dtype], PreTrainedModel] = {}  # the most recently used last

    @contextmanager
    def adapted(self, config: TrialConfig, device: torch.device) -> Iterator[PeftModel]:
        """The configuration's base and adapter, drawn from its seed whether or not the base was there already.

        The adapter is taken off again afterwards. After an exception the base is not used another time.
        """
        key = (config.model, base_dtype(config, device))
        base = self._bases.pop(key, None) or load_base(config, device)
        set_seed(config.seed)
        model = attach_lora(base, config)
        yield model
        base.activation_checkpointing_disable()
        base.disable_input_require_grads()
        vars(base).pop("forward", None)  # trl wraps it for each training, and would wrap it once more the next time
        self._bases[key] = cast(PreTrainedModel, model.unload())
        while len(self._bases) > 1 and sum(map(_bytes, self._bases.values())) > self._most:
            del self._bases[next(iter(self._bases))]

    @property
    def loaded(self) -> list[str]:
        """The models that are here, the most recently used last."""
        return [model for model, _ in self._bases]


def _bytes(model: PreTrainedModel) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
