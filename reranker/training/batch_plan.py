"""How the examples of a step are divided among workers, lists and forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from reranker.config import TrialConfig
from reranker.errors import Fault, InputError
from reranker.modeling.checkpoints.model_shape import Shape
from reranker.modeling.memory.memory_estimate import PassSize, estimate

_PASS_TOKENS = {"cpu": 4096, "cuda": 16_384, "mps": 8192}  # with padding; on a CPU, what fits the cache is fastest
_FEWEST, _WIDTH = 512, 512  # tokens of a pass, and of a prompt where that is not known yet
_FULL = 0.9  # of a GPU's memory
_BUSY = 4096  # tokens of a pass that keep a GPU busy; smaller ones leave it waiting for the host (docs/PERFORMANCE.md)
_AUTO_SHARING = 16  # most examples per list, if list_sharing is automatic


def share_of_batch(config: TrialConfig, workers: int) -> int:
    """The number of examples per optimiser step and worker.

    Raises:
        InputError: the effective batch cannot be shared evenly.
    """
    share, rest = divmod(config.effective_batch, workers)
    if rest:
        rule = f"the effective batch must be a multiple of the {workers} workers"
        raise InputError([Fault(rule, field="effective_batch", value=config.effective_batch)])
    return share


_Row = TypeVar("_Row")


def share_of_step(rows: Sequence[_Row], rank: int, workers: int) -> Sequence[_Row]:
    """A worker's share of the lists of a step, none of them twice: an epoch's last step may have fewer than workers."""
    return rows[len(rows) * rank // workers : len(rows) * (rank + 1) // workers]


def examples_of_a_list(config: TrialConfig, workers: int) -> int:
    """How many examples share one list: `list_sharing`, or fewer so that a worker's share is a multiple of it.

    Raises:
        InputError: the effective batch cannot be shared evenly.
    """
    share = share_of_batch(config, workers)
    if config.scoring == "pointwise" or config.prompt_order == "history_first":
        return 1
    automatic = max(1, min(_AUTO_SHARING, config.least_candidates // config.positives, config.effective_batch // 2))
    most = automatic if config.list_sharing == "auto" else config.list_sharing
    return max(divisor for divisor in range(1, min(most, share) + 1) if share % divisor == 0)


def pass_tokens(config: TrialConfig, shape: Shape | None, device: str, capacity: float) -> int:
    """Most tokens of a forward pass, with padding, if micro_batch is automatic; on a GPU no more than it holds.

    The batch of an optimiser step does not depend on it.

    Args:
        shape: of the model, or None if it is not known.
        device: its type in torch.
        capacity: bytes that the worker has of a GPU.
    """
    tokens = _PASS_TOKENS[device]
    if device != "cuda" or shape is None:
        return tokens
    while tokens > _FEWEST:
        size = PassSize(max(1, tokens // _WIDTH), min(tokens, _WIDTH))
        if estimate(config, shape, size, on_gpu=True).total <= _FULL * capacity:
            break
        tokens //= 2
    return tokens


def checkpoints(config: TrialConfig, shape: Shape | None, device: str, capacity: float) -> bool:
    """Whether only the inputs of layers are kept for the backward pass.

    If that is automatic: where the memory does not hold a pass otherwise, or on a GPU only one that leaves it waiting. A
    larger pass with checkpointing is then faster than a smaller one without (measured, docs/PERFORMANCE.md).

    Args:
        shape: of the model, or None if it is not known.
        device: its type in torch.
        capacity: bytes that the worker has of the device.
    """
    if config.gradient_checkpointing != "auto" or shape is None:
        return config.gradient_checkpointing is True
    without = config.model_copy(update={"gradient_checkpointing": False})
    step = config.effective_batch * _WIDTH
    tokens = min(step, pass_tokens(without, shape, device, capacity))
    size = PassSize(config.micro_batch or max(1, tokens // _WIDTH), _WIDTH)
    if estimate(without, shape, size, on_gpu=device == "cuda").total > _FULL * capacity:
        return True
    return device == "cuda" and config.micro_batch is None and tokens < min(step, _BUSY)


def largest_pass(config: TrialConfig, workers: int, prompt_tokens: int, most_tokens: int) -> int:
    """Examples in one worker's largest forward pass, if all prompts have this length."""
    fits = config.micro_batch or most_tokens // prompt_tokens
    return max(1, min(fits, config.effective_batch // workers))
