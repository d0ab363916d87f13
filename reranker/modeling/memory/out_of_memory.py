"""An error of torch → whether the device's memory ran out, in any of the forms in which libraries say so."""

from __future__ import annotations

import torch

from reranker.errors import EnvironmentFault, OutOfMemory

_SIGNS = (
    "out of memory",  # CUDA, ROCm, MPS, and the driver
    "can't allocate memory", "cannot allocate memory", "not enough memory",  # of the CPU
    "alloc_failed",  # cuBLAS, cuDNN, cuSPARSE
    "hiperroroutofmemory",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller pass may go through where this one did not."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory):
        return True
    if isinstance(error, EnvironmentFault) and error.__cause__ is not None:  # a model that could not be loaded
        return is_out_of_memory(error.__cause__)
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)
