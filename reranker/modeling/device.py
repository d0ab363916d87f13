"""Which device this process computes on, and what it can do."""

from __future__ import annotations

from functools import cache

import torch

from reranker.modeling.memory.memory_estimate import host_memory


def best_device() -> torch.device:
    """This process's CUDA GPU, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        _set_up_cuda()
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def computes_in_bf16(device: torch.device) -> bool:
    """Whether it is a CUDA GPU with bf16 of its own: those before Ampere only imitate it, slower than fp32."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def own_memory(device: torch.device) -> float:
    """Bytes that this process may take of the device: of a GPU its share, without what others use; else the host's."""
    if device.type != "cuda":
        return host_memory().total
    free, total = torch.cuda.mem_get_info(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    return float(min(free + torch.cuda.memory_reserved(device), share * total))


@cache
def _set_up_cuda() -> None:
    """Without cuDNN's attention, which builds a plan for each width of a pass; flash and memory-efficient stay."""
    torch.backends.cuda.enable_cudnn_sdp(False)
