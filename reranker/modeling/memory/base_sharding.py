"""A base and a training's workers → whether they divide its layers among them. Does not import torch."""

from __future__ import annotations

from reranker.config import TrialConfig
from reranker.modeling.checkpoints.model_shape import Shape
from reranker.modeling.memory.memory_estimate import PassSize, estimate

_SMALLEST = PassSize(rows=1, width=512)
_FULL = 0.9  # of a GPU's memory


def divides(config: TrialConfig, shape: Shape | None, device: str, capacity: float, workers: int) -> bool:
    """Whether each worker holds only a part of each layer.

    If that is automatic: where the smallest pass does not fit a GPU beside the whole base.

    Args:
        shape: of the model, or None if it is not known.
        device: its type in torch.
        capacity: bytes that a worker has of it.
    """
    if workers == 1 or config.dora or config.quantisation != "none":  # the latter two need whole weights
        return False
    if config.shard_base != "auto":
        return config.shard_base
    if shape is None or device != "cuda":
        return False
    least = config.model_copy(update={"gradient_checkpointing": True})
    return estimate(least, shape, _SMALLEST, on_gpu=True).total > _FULL * capacity
