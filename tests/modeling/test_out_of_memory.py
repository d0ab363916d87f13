"""Each form in which a library says that memory ran out is known; other faults are not taken for it."""

from __future__ import annotations

import pytest
import torch

from reranker.errors import EnvironmentFault
from reranker.modeling.memory.out_of_memory import is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("NCCL error: unhandled cuda error. Cuda failure 'out of memory'"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:113] DefaultCPUAllocator: not enough memory: you tried to"),
        MemoryError(),
    ],
    ids=str,
)
def test_what_says_that_memory_ran_out(error):
    assert is_out_of_memory(error)


def test_a_model_that_could_not_be_loaded_for_want_of_memory():
    fault = EnvironmentFault("the model 'a' could not be loaded")
    fault.__cause__ = RuntimeError("unable to mmap 1160840 bytes from file <a>: Cannot allocate memory (12)")
    assert is_out_of_memory(fault)
    fault.__cause__ = RuntimeError("the file is damaged")
    assert not is_out_of_memory(fault)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
        OSError("Cannot allocate memory"),
    ],
    ids=str,
)
def test_what_does_not(error):
    assert not is_out_of_memory(error)
