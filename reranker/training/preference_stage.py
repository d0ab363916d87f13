"""The last epochs as a second stage: softmax-DPO of the true item over a list's negatives, against what was trained before.

Source: Chen et al., On softmax direct preference optimization for recommendation, NeurIPS 2024: with π the model, π₀ the
one that the stage begins with, t the true item and d its negatives,

    −log σ(−log Σ_d exp(β log(π(d) / π₀(d)) − β log(π(t) / π₀(t)))) = log(1 + Σ_d exp(…)),

which is the cross-entropy of the true item in a softmax over β (s − s₀), s and s₀ being the logits of the list's labels:
what a softmax divides by is the same for all labels of a list, and so is gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

_FILE = "reference.safetensors"
_NO_NEGATIVE = -1e8  # biases below it take a candidate out of the list


def softmax_dpo(logits: Tensor, reference: Tensor, targets: Tensor, beta: float, bias: Tensor | None = None) -> Tensor:
    """The mean of the formula above over the examples; ln(candidates) where nothing has been learned since.

    Args:
        logits, reference: [examples, candidates], of the labels, now and when the stage began.
        targets: int64 [examples], the true item's column.
        bias: what both logits have been added, [examples, candidates]; very low for what is no negative.
    """
    gained = beta * (logits - reference)
    if bias is not None:
        gained = gained.masked_fill(bias < _NO_NEGATIVE, -torch.inf)
    return F.cross_entropy(gained, targets)


class Reference:
    """The trained parameters as they were when the stage began.

    Attributes:
        values: by name.
    """

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values

    @staticmethod
    def of(model: torch.nn.Module) -> Reference:
        """A copy of the parameters that are trained."""
        return Reference({name: parameter.detach().clone() for name, parameter in _trained(model)})

    @staticmethod
    def read(folder: Path, model: torch.nn.Module) -> Reference | None:
        """As it was kept with a training state; None if the stage had not begun then."""
        if not (file := folder / _FILE).exists():
            return None
        kept = load_file(file)
        return Reference({name: kept[name].to(parameter.device) for name, parameter in _trained(model)})

    def keep(self, folder: Path) -> None:
        """Write it beside a training state."""
        save_file({name: value.contiguous() for name, value in self.values.items()}, folder / _FILE)

    @contextlib.contextmanager
    def in_place(self, model: torch.nn.Module) -> Iterator[None]:
        """The model with these parameters, in evaluation mode and without gradients; both are put back."""
        now = {name: parameter.data for name, parameter in _trained(model)}
        was_training = model.training
        model.eval()
        try:
            for name, parameter in _trained(model):
                parameter.data = self.values[name]
            with torch.no_grad():
                yield
        finally:
            for name, parameter in _trained(model):
                parameter.data = now[name]
            model.train(was_training)


def _trained(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
