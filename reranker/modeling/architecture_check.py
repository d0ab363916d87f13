"""An architecture → whether its answers can be read off early, and lists shared, tried on a miniature of it.

The miniature has the architecture's own layers with random weights, a few numbers wide, so the check takes a moment
whatever the model's size is.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from reranker.errors import first_line
from reranker.modeling.batching import last_columns, pad_right
from reranker.modeling.checkpoints.vision_models import auto_class
from reranker.modeling.labels.label_head import only_answers
from reranker.modeling.shared_list_attention import lay_out, sharing

_SIZES = {
    "hidden_size": 64, "out_hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_attention_heads": 4, "head_dim": 16,
    "vocab_size": 256, "vocab_size_per_layer_input": 256, "hidden_size_per_layer_input": 16, "num_experts": 4,
    "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "initializer_range": 0.2,
}  # fmt: skip
_LAYERS = 4  # the last ones, so that each kind of a mixed architecture is there
_MOST_LAYERS = 40  # where that is needed of an architecture whose layers depend on each other
_LABELS = [5, 7, 11]
_LIST, _QUESTIONS = list(range(20, 40)), ([50, 51, 52, 5, 9], [60, 61, 62])
_TOLERANCE = 1e-3  # of the largest logit


@dataclass(frozen=True)
class Architecture:
    """What a miniature has shown.

    Attributes:
        fault: why it cannot be trained; empty if it can.
        shares_lists: whether questions behind one list get the answers that they get alone.
        tried: whether a miniature could be built; if not, it is not known to share lists.
    """

    fault: str = ""
    shares_lists: bool = True
    tried: bool = True


_KNOWN: dict[str, Architecture] = {}  # by the configuration's JSON text


def architecture_of(described: PreTrainedConfig) -> Architecture:
    """Ask a miniature two questions in every way in which training and scoring ask them; tried once a configuration."""
    text = described.to_json_string(use_diff=False)
    if text not in _KNOWN:
        _KNOWN[text] = _tried(described)
    return _KNOWN[text]


def _tried(described: PreTrainedConfig) -> Architecture:
    prompts = [_LIST + question for question in _QUESTIONS]
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        text_model = described.get_text_config()
        for config, layers in ((described, _LAYERS), (text_model, _LAYERS), (text_model, None)):
            torch.manual_seed(0)
            try:
                model = _miniature(config, layers)
                expected = _whole(model, prompts)
            except Exception:  # noqa: BLE001, S112  (whatever the sizes of an unknown configuration run into)
                continue
            return _compared(model, prompts, expected)
    return Architecture(shares_lists=False, tried=False)


def _compared(model: PreTrainedModel, prompts: list[list[int]], expected: Tensor) -> Architecture:
    try:
        answers = _answers(model, prompts)
    except Exception as error:  # noqa: BLE001  (likewise)
        return Architecture(f"computing only its answers fails ({type(error).__name__}: {first_line(error)})", False)
    if not _equal(answers, expected):
        return Architecture("computing only its answers changes them", False)
    try:
        return Architecture(shares_lists=_equal(_shared(model), expected))
    except Exception:  # noqa: BLE001  (likewise)
        return Architecture(shares_lists=False)


def _miniature(described: PreTrainedConfig, layers: int | None) -> PreTrainedModel:
    config = copy.deepcopy(described)
    if layers is None and config.num_hidden_layers > _MOST_LAYERS:
        raise ValueError("a miniature of so many layers takes long")
    for part in _parts(config):
        _shrink(part, layers)
    model = auto_class(config).from_config(config, trust_remote_code=False, dtype=torch.float32)
    assert isinstance(model, PreTrainedModel)
    return model.eval()


def _parts(config: Any) -> list[Any]:
    """The configuration and those nested in it, such as a text model's or a vision tower's."""
    nested = [value for value in vars(config).values() if isinstance(value, PreTrainedConfig)]
    return [config, *(part for value in nested for part in _parts(value))]


def _shrink(config: Any, layers: int | None) -> None:
    """Make it small; what the configuration does not let itself be told stays as it is."""

    def number(name: str) -> float:
        value = None
        with suppress(Exception):
            value = getattr(config, name)
        return value if isinstance(value, int | float) else 0

    def put(name: str, *values: Any) -> None:
        for value in values:
            with suppress(Exception):
                setattr(config, name, value)
                return

    grouped = 0 < number("num_key_value_heads") < number("num_attention_heads")
    for name, size in _SIZES.items():
        if number(name) and not (name == "head_dim" and number("qk_rope_head_dim")):  # there it has two parts
            put(name, size)
    if number("num_key_value_heads"):
        put("num_key_value_heads", 2 if grouped else _SIZES["num_attention_heads"])
    if layers is not None and number("num_hidden_layers") > layers:
        if isinstance(kinds := getattr(config, "layer_types", None), list):
            put("layer_types", kinds[-layers:])
        put("num_hidden_layers", layers)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if hasattr(config, name):
            put(name, None, 0)
    if hasattr(config, "quantization_config"):
        del config.quantization_config


@torch.no_grad()
def _whole(model: PreTrainedModel, prompts: list[list[int]]) -> Tensor:
    """The labels' logits, then all, of each prompt alone, without any padding."""
    rows = torch.stack([model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1] for ids in prompts])
    return torch.cat([rows[:, _LABELS], rows], dim=-1)


@torch.no_grad()
def _answers(model: PreTrainedModel, prompts: list[list[int]]) -> Tensor:
    batch = pad_right(prompts, 0)
    with only_answers(model, torch.tensor(_LABELS), last_columns(batch["ends"], 1), whole=True):
        logits: Tensor = model(input_ids=batch["input_ids"], use_cache=False, logits_to_keep=0).logits
    return logits[:, -1]


@torch.no_grad()
def _shared(model: PreTrainedModel) -> Tensor:
    ids, layout = lay_out([_LIST], [_QUESTIONS], 0)
    ends = layout.ends(1)
    with sharing(model), only_answers(model, torch.tensor(_LABELS), ends, whole=True):
        options = {"position_ids": layout.places, "layout": layout, "logits_to_keep": ends}
        logits: Tensor = model(input_ids=ids, use_cache=False, **options).logits
    return logits.flatten(0, 1)


def _equal(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).abs().max() <= _TOLERANCE * second.abs().max())
