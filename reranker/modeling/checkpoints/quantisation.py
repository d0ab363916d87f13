"""What a quantised base needs, and what its weights are. Does not import torch."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

from reranker.errors import EnvironmentFault

# Of nf4, for each weight: half a byte, a scale of a byte for 64 of them, and four bytes for 256 scales.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


def check_quantiser() -> None:
    """
    Raises:
        EnvironmentFault: the package that quantises is missing.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise EnvironmentFault("quantisation: nf4 needs the package bitsandbytes: pip install 'reranker-tuner[nf4]'")


def count(parameter: Any) -> int:
    """The numbers in a parameter, also where two of them are packed into a byte."""
    state = getattr(parameter, "quant_state", None)
    return math.prod(state.shape) if state is not None else int(parameter.numel())
