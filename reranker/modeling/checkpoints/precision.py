"""A configuration and a machine → whether the base is held in bf16. Light until a CPU is asked what it can do."""

from __future__ import annotations

from reranker.config import TrialConfig
from reranker.modeling.checkpoints.model_files import shape_of

_WIDE = 256  # hidden size from which bf16 saves time on a CPU that supports it


def in_bf16(config: TrialConfig, *, on_gpu: bool) -> bool:
    """Whether the base is in bf16, on this machine's CPU or on a GPU that supports bf16.

    A CPU without instructions for bf16 is 8 to 15 times slower with it, and a narrow model is not faster on any.
    """
    if config.precision != "auto" or on_gpu:
        return config.precision != "fp32"
    import torch

    cpu, shape = torch.cpu.get_capabilities(), shape_of(config.model)
    return any(cpu.get(name) for name in ("avx512_bf16", "amx_bf16")) and (shape is None or shape.hidden >= _WIDE)
