"""torch.compile for a decoder's layers, while a model is trained."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException
from transformers import PreTrainedModel

from reranker.errors import EnvironmentFault, TrainingError, first_line
from reranker.modeling.shared_list_attention import leave_uncompiled

_MOST_CODES = 64  # compiled for a layer: with a rank, with gradients or without; torch's own limit is 8


def check_compiler(*, on_gpu: bool) -> None:
    """
    Raises:
        EnvironmentFault: there is nothing here to compile with.
    """
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    if not any(map(shutil.which, filter(None, compilers))):
        raise EnvironmentFault("compile_layers needs a C++ compiler (g++ or clang++, or one that CXX names)")
    if on_gpu and importlib.util.find_spec("triton") is None:
        raise EnvironmentFault(
            "compile_layers needs the package triton on a GPU, which torch's CUDA builds bring along"
        )


@contextmanager
def compiled_layers(base: PreTrainedModel) -> Iterator[None]:
    """In this context all layers of the decoder but the last are compiled, once for all of them and any size of passes.

    The last one has hooks of its own, see `reranker.modeling.labels.label_head`; attention in shared lists stays as it is.

    Raises:
        EnvironmentFault: there is nothing here to compile with.
        TrainingError: this model's layers can't be compiled.
    """
    check_compiler(on_gpu=torch.cuda.is_available())
    torch._dynamo.config.recompile_limit = max(_MOST_CODES, torch._dynamo.config.recompile_limit)
    leave_uncompiled()
    decoder: Any = base.get_decoder()
    layers = list(decoder.layers[:-1])
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)
    try:
        yield
    except TorchDynamoException as error:
        rule = f"this model's layers can't be compiled here, {first_line(error)}; compile_layers: false does without"
        raise TrainingError(rule) from error
    finally:
        for layer in layers:
            del layer.forward
