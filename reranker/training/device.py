"""Which device this process trains on."""

from __future__ import annotations

import torch


def training_device() -> torch.device:
    """This process's CUDA GPU, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
