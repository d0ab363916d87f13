"""A model's name → its tokenizer, and its base, checked and loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault, Fault, InputError, first_line
from reranker.modeling.architecture_check import architecture_of
from reranker.modeling.checkpoints.model_files import local_folder, resolve, weight_files
from reranker.modeling.device import computes_in_bf16
from reranker.modeling.lora.lora_targets import LORA_TARGETS
from reranker.modeling.process_group import wait_for_all, worker_rank, workers
from reranker.modeling.sharded_base import divide

if TYPE_CHECKING:
    from peft import PeftModel  # takes seconds

transformers_logging.disable_progress_bar()  # for loading and converting; downloads from the Hub still show theirs
from reranker.modeling.checkpoints.precision import in_bf16
from reranker.modeling.checkpoints.quantisation import check_quantiser
from reranker.modeling.checkpoints.vision_models import auto_class, reads_images
from reranker.storage.hub import hub_answers, why_silent

_FINGERPRINT = "fingerprint_of_base"  # the attribute that keeps it
FAMILIES = "Llama, SmolLM, Mistral, Qwen2, Qwen3, Gemma, OLMo, Granite and others that are built like Llama"


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer. It pads on the left, as those who generate with an exported model need it."""
    tokenizer = from_pretrained(AutoTokenizer, model)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_base(config: TrialConfig) -> None:
    """Check without loading the weights that the base is complete and can be trained on.

    Raises:
        InputError: its architecture lacks what training relies on, or its folder lacks weights.
        EnvironmentFault: its files cannot be read or fetched.
    """
    folder = local_folder(config.model)
    if folder is not None:
        _check_weights(folder, config.model)
    described = describe(config.model)
    try:
        with torch.device("meta"):
            base = auto_class(described).from_config(described, trust_remote_code=False)
    except ValueError:
        raise InputError([_unfit(config, described.model_type)]) from None
    check_structure(base, config)
    check_reads(config, described)
    if fault := architecture_of(described).fault:
        raise InputError(
            [Fault(f"the model must answer by its last position alone; {fault}", field="model", value=config.model)]
        )


def describe(model: str) -> PreTrainedConfig:
    """The model's configuration.

    Raises:
        InputError, EnvironmentFault: as `load_base`.
    """
    described = from_pretrained(AutoConfig, model)
    assert isinstance(described, PreTrainedConfig)
    return described


def check_reads(config: TrialConfig, described: PreTrainedConfig) -> None:
    """
    Raises:
        InputError: the configuration has images read, and the model reads none.
    """
    if config.image_mode == "raw_image" and not reads_images(described):
        rule = f"raw_image needs a model that reads images; {config.model} ({described.model_type}) does not"
        hint = "qwen3vl-2b, qwen3vl-4b and qwen3vl-8b do; with image_mode: caption any model reads what is seen in them"
        raise InputError([Fault(rule, field="image_mode", value="raw_image", hint=hint)])


def check_structure(base: PreTrainedModel, config: TrialConfig) -> None:
    """Require the modules that `reranker.modeling.labels.label_head` and the adapter use."""
    try:
        block: Any = base.get_decoder().layers[-1]
        is_complete = isinstance(block.self_attn.o_proj, torch.nn.Module) and isinstance(block.mlp, torch.nn.Module)
    except (AttributeError, IndexError, TypeError):
        is_complete = False
    if not is_complete or not isinstance(base.get_output_embeddings(), torch.nn.Linear):
        raise InputError([_unfit(config, type(base).__name__)])
    targets = LORA_TARGETS[config.lora_targets]
    module_names = {name.rsplit(".", 1)[-1] for name, _ in base.named_modules()}
    if not isinstance(targets, str) and (missing := [name for name in targets if name not in module_names]):
        rule = f"the model must have the layers that lora_targets names; {config.model} has no {', '.join(missing)}"
        raise InputError([Fault(rule, field="lora_targets", value=config.lora_targets, hint="try all_linear")])


def _unfit(config: TrialConfig, architecture: str) -> Fault:
    rule = f"the model must have the layers of a Llama, and {architecture} has not"
    return Fault(rule, field="model", value=config.model, hint=f"supported: {FAMILIES}")


def _check_weights(folder: Path, model: str) -> None:
    """Require every weight file, and no truncated safetensors file."""
    files = weight_files(folder)
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


def load_base(config: TrialConfig, device: torch.device, *, in_host_memory: bool = False) -> PreTrainedModel:
    """The frozen base in the configured precision; its weights are read straight to a GPU. On another device the
    trainer moves it there.

    Args:
        in_host_memory: leave the weights in the host's memory.

    Raises:
        InputError: weights are missing (they would be random), or the architecture is not supported.
        EnvironmentFault: the model is not available.
    """
    dtype = base_dtype(config, device)
    options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True}
    if (device.type == "cuda" and not in_host_memory) or config.quantisation == "nf4":
        options["device_map"] = {"": device}
    if config.quantisation == "nf4":
        options["quantization_config"] = _nf4(dtype)
    base, loading_info = from_pretrained(auto_class(describe(config.model)), config.model, **options)
    assert isinstance(base, PreTrainedModel)
    if loading_info["missing_keys"]:
        rule = f"the model's weights must be whole; {len(loading_info['missing_keys'])} are missing"
        raise InputError(
            [Fault(rule, field="model", value=config.model, hint=f"{min(loading_info['missing_keys'])}, …")]
        )
    check_structure(base, config)
    base.config.use_cache = False
    return base


def load_divided(config: TrialConfig, device: torch.device) -> PreTrainedModel:
    """The base with this worker's part of each layer on the device, and the rest of it whole. Call on all workers.

    One worker after the other reads the weights, so that a machine's memory need not hold them more than once.

    Raises:
        InputError, EnvironmentFault: as `load_base`.
    """
    from torch.distributed.device_mesh import init_device_mesh  # needed only here

    mesh = init_device_mesh(device.type, (workers(),))
    for turn in range(workers()):
        if turn == worker_rank():
            base = load_base(config, device, in_host_memory=True)
            setattr(base, _FINGERPRINT, base_fingerprint(base))  # while the weights are here
            divide(base, mesh, device)
        wait_for_all()
    return base


def _nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    """4-bit normal floats, their scales quantised too, as in QLoRA (Dettmers et al. 2023).

    Raises:
        EnvironmentFault: bitsandbytes is missing.
    """
    check_quantiser()
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def base_dtype(config: TrialConfig, device: torch.device) -> torch.dtype:
    """bf16 if configured, or if precision is auto and bf16 is faster; else fp32."""
    half = in_bf16(config, on_gpu=device.type == "cuda")
    if config.precision == "auto" and device.type != "cpu":
        half = computes_in_bf16(device)
    return torch.bfloat16 if half else torch.float32


def base_fingerprint(model: PreTrainedModel | PeftModel) -> str:
    """SHA-256 of up to 64 numbers of each weight of the base, in bf16, so that precision makes no difference.

    Of a quantised base without the quantised ones, which differ in places from one device to another.
    Shapes do not show when a repository has new weights, a folder another model, or a copy is quantised.
    """
    if (kept := getattr(model, _FINGERPRINT, None)) is not None:
        return str(kept)
    named = [(name, weight.detach()) for name, weight in model.named_parameters() if "lora_" not in name]
    weights = [weight for _, weight in named if weight.is_floating_point()]
    samples = [
        weight.flatten()[:: max(1, weight.numel() // 64)][:64].to(torch.bfloat16).float().cpu() for weight in weights
    ]
    return hashlib.sha256(torch.cat(samples).numpy().tobytes()).hexdigest()


def from_pretrained(auto_class: Any, model: str, **options: Any) -> Any:
    """What the class of transformers makes of a named model.

    Raises:
        InputError: there is no such model.
        EnvironmentFault: it is not available.
    """
    location = resolve(model)
    if isinstance(location, str):
        is_local = local_folder(model) is not None
        if not is_local and not hub_answers():
            raise EnvironmentFault(
                f"the model {model!r} is not on this machine, and the Hub {why_silent()}; fetch it where there is a network "
                f"(hf download {location} --local-dir FOLDER) and name that folder as the model"
            )
        options["local_files_only"] = is_local
    try:
        return auto_class.from_pretrained(location, trust_remote_code=False, **options)
    except (OSError, ValueError, SafetensorError, RuntimeError, UnpicklingError) as error:
        if isinstance(error.__cause__, RepositoryNotFoundError | GatedRepoError):
            rule = "the Hub knows no such model, or you have no access to it (log in with `hf auth login`)"
            raise InputError([Fault(rule, field="model", value=model)]) from error
        raise EnvironmentFault(
            f"the model {model!r} could not be loaded from {location}: {first_line(error)}"
        ) from error
