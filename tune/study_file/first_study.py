"""Tables and a machine → the text of a study file to start from: filters, lists, models, ranges and a budget that fit them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reranker.data.interactions import Interactions, build_interactions
from reranker.data.sources import tables
from reranker.data_config import InteractionColumns, ItemColumns, TablesData
from reranker.errors import Fault, InputError
from reranker.modeling.checkpoints.model_names import MODELS
from reranker.modeling.memory.memory_estimate import GIB, device_memory
from tune.study_file.image_column import ImageColumn

_FILTERS = ((5, 5), (3, 5), (3, 3), (3, 1))  # (min_user, min_item), the strictest first
_KEPT = 0.6  # of the interactions that the mildest filters leave
_FEW_USERS = 100
_CHARACTERS = 3.5  # of a token
_ON_A_CPU = "smollm2-135m"  # the largest that learns in minutes there
_ON_A_GPU = ("qwen3-0.6b", "qwen3-1.7b", "qwen3-4b")
_CPU_EXAMPLES, _GPU_EXAMPLES = 5_000, 100_000  # of a trial: half an hour on two cores; not measured on a GPU
_CPU_LISTS, _GPU_LISTS = 300, 1_000  # that are scored after each epoch


@dataclass(frozen=True)
class Machine:
    """What trials run on."""

    name: str
    memory: float  # bytes
    on_gpu: bool

    @staticmethod
    def here() -> Machine:
        """This one; of several GPUs the smallest."""
        memory = device_memory()
        return Machine(memory.device, memory.total, memory.on_gpu)

    def __str__(self) -> str:
        gib = f"{self.memory / GIB:.0f} GiB"
        return f"{self.name} ({gib})" if self.on_gpu else f"a machine of {gib} without a GPU"

    @property
    def models(self) -> list[str]:
        """Those that fit: weights in bf16, a third more for the adapter's training, and 6 GiB for the passes."""
        if not self.on_gpu:
            return [_ON_A_CPU]
        fitting = [m for m in _ON_A_GPU if MODELS[m].parameters * 1e6 * 2 * 1.3 + 6 * GIB < 0.9 * self.memory]
        return fitting[-2:] or [_ON_A_CPU]


def first_study(
    interactions: Path,
    items: Path,
    interaction_columns: Mapping[str, str],
    item_columns: Mapping[str, str],
    *,
    folder: Path,
    name: str,
    image: ImageColumn | None = None,
    machine: Machine | None = None,
) -> str:
    """The file's text.

    Args:
        interaction_columns, item_columns: our names → the tables'.
        folder: where the file will lie; tables in it are named relative to it.
        name: of the study; what a study's name can't have becomes a hyphen.
        image: of the items, if there is one.
        machine: left out: this one.

    Raises:
        InputError: the tables break rules, or hold too little to train and validate on.
    """
    machine = machine or Machine.here()
    config = TablesData(
        interactions=interactions, items=items, min_user=3, min_item=1,
        interaction_columns=InteractionColumns(**interaction_columns), item_columns=ItemColumns(**item_columns),
    )  # fmt: skip
    config, kept, whole = _filtered(config)
    lengths = np.array([len(sequence) for sequence in kept.sequences])
    users, catalogue = len(lengths), len(kept.item_ids)
    candidates = min(20, catalogue - int(lengths.max()))
    if candidates < 2:
        rule = "the items must be more than the most that one user has touched, or no list can be made"
        raise InputError([Fault(rule, str(items), value=catalogue)])
    characters = float(np.percentile([len(text) for text in kept.item_texts], 95))
    titles = int(np.clip(math.ceil(characters / _CHARACTERS), 8, 32))
    history = int(np.clip(np.median(lengths) - 2, 3, 10))
    models = machine.models
    lists = _GPU_LISTS if machine.on_gpu else _CPU_LISTS
    most = _GPU_EXAMPLES if machine.on_gpu else _CPU_EXAMPLES
    each = int(np.clip(np.median(lengths) - 3, 1, 3))
    training_users = min(users, most // (4 * each))
    epochs = int(np.clip(most // (training_users * each), 2, 8))
    low, start, high = _rates(models)
    lines = [
        f"# Made for {interactions.name} and {items.name}, on {machine}.",
        "# Every field: docs/STUDY_FILES.md. What this will take: --check. Change what you know better.",
        "study:",
        f"  name: {_study_name(name)}",
        "  metric: ndcg_at_10",
        f"  trials: {16 if machine.on_gpu else 8}",
        f"  time_budget: {'6h' if machine.on_gpu else '3h'}  # of one launch; --resume goes on",
        f"  start_from: [{{learning_rate: {start}, lora_rank: 16}}]  # tried first: what mostly works",
        "data:",
        "  source: tables",
        f"  interactions: {_path(interactions, folder)}",
        f"  items: {_path(items, folder)}",
        *_columns("interaction_columns", interaction_columns, InteractionColumns()),
        *_columns("item_columns", item_columns, ItemColumns()),
        *_images(image),
        f"  # {_left(kept, whole)}",
        f"  min_user: {config.min_user}",
        f"  min_item: {config.min_item}",
    ]
    if users > lists:
        lines.append(f"  evaluation_users: {lists}  # scored after each epoch: more tell smaller differences apart")
    if users > training_users:
        lines.append(f"  training_users: {training_users}  # so that a trial ends; null: all {users:,}")
    lines += [
        "fixed:",
        *([f"  model: {models[0]}"] if len(models) == 1 else []),
        f"  candidates: {candidates}  # the true item among {candidates - 1} that the user never touched",
        f"  history_length: {history}  # the median user has {np.median(lengths):g} items",
        f"  max_title_tokens: {titles}  # 95 % of the titles have at most {characters:.0f} characters",
        f"  examples_per_user: {each}  # of an epoch",
        "space:",
        *([f"  model: {{choice: [{', '.join(models)}]}}"] if len(models) > 1 else []),
        f"  epochs: {{int: [{max(1, epochs // 2)}, {epochs}]}}  # of {training_users * each:,} examples",
        f"  learning_rate: {{log_uniform: [{low}, {high}]}}",
        "  lora_rank: {choice: [8, 16, 32]}",
    ]
    if image is not None:
        lines.append(
            "  # image_mode: {choice: [text, caption]}  # with a caption_model above: docs/YOUR_DATA.md, Images"
        )
    return "\n".join(lines) + "\n"


def _filtered(config: TablesData) -> tuple[TablesData, Interactions, Interactions]:
    """The configuration with the strictest filters that leave enough, what they leave, and what the mildest would."""
    read, items = tables.read(config)
    whole = build_interactions(read, items, config, items_file=str(config.items))
    for min_user, min_item in _FILTERS:
        stricter = config.model_copy(update={"min_user": min_user, "min_item": min_item})
        try:
            kept = build_interactions(read, items, stricter, items_file=str(config.items))
        except InputError:
            continue  # they leave nothing
        if len(kept.sequences) >= _FEW_USERS and _count(kept) >= _KEPT * _count(whole):
            return stricter, kept, whole
    return config, whole, whole


def _left(kept: Interactions, whole: Interactions) -> str:
    parts = [
        (len(kept.sequences), len(whole.sequences), "users"),
        (len(kept.item_ids), len(whole.item_ids), "items"),
        (_count(kept), _count(whole), "interactions"),
    ]
    return "these leave " + ", ".join(f"{left:,} of {total:,} {what}" for left, total, what in parts)


def _count(interactions: Interactions) -> int:
    return sum(map(len, interactions.sequences))


def _rates(models: list[str]) -> tuple[str, str, str]:
    """(low, where to start, high): larger models want lower rates (docs/RESULTS.md, docs/LOG.md)."""
    largest = max(MODELS[model].parameters for model in models)
    if largest < 1_000:
        return "1.0e-4", "5.0e-4", "2.0e-3"
    return ("1.0e-4", "3.0e-4", "1.0e-3") if largest < 3_000 else ("5.0e-5", "2.0e-4", "5.0e-4")


def _study_name(text: str) -> str:
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text).strip("._-")
    return json.dumps(name[:100] or "study")


def _path(path: Path, folder: Path) -> str:
    absolute, beside = path.absolute(), folder.absolute()
    return json.dumps(os.fspath(absolute.relative_to(beside) if absolute.is_relative_to(beside) else absolute))


def _images(image: ImageColumn | None) -> list[str]:
    """Where the items' images are; items without one are read as text."""
    if image is None:
        return []
    column = json.dumps(image.name, ensure_ascii=False)
    what = f"{'an address' if image.are_addresses else 'a path'} in {image.named:,} of the first {image.rows:,} rows"
    fetch = "; fetch: true gets them, once" if image.are_addresses else ""
    return [f"  images: {{column: {column}, missing: text}}  # {what}{fetch}"]


def _columns(field: str, names: Mapping[str, str], usual: InteractionColumns | ItemColumns) -> list[str]:
    """The field's line, with those names that are not as they are by default."""
    different = {name: column for name, column in names.items() if column != getattr(usual, name)}
    if not different:
        return []
    inside = ", ".join(f"{name}: {json.dumps(column, ensure_ascii=False)}" for name, column in different.items())
    return [f"  {field}: {{{inside}}}"]
