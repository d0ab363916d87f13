"""A study and its data → faults that any trial would meet, and what trials will need, before any resource is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reranker.catalogue import Catalogue
from reranker.config import TrialConfig
from reranker.data import RerankingData
from reranker.errors import InputError
from reranker.memory import GIB, MemoryEstimate, device_memory, estimate, shape_of
from reranker.models import MODELS, check_base, is_hub_id, load_tokenizer, local_folder
from reranker.prompts import PromptEncoder
from reranker.sft import largest_pass
from tune.search_space import Study

_MOST_ON_A_GPU = 4  # trials; more would wait for each other


@dataclass(frozen=True)
class ModelCheck:
    """What was found out about one model of a study.

    Attributes:
        longest: tokens of its longest prompts; of a model that is not here, what they may have at most.
        here: whether it need not be fetched first.
        whole_prompts: whether its tokens reach over the ends of titles, so that each prompt is tokenised as a whole.
    """

    config: TrialConfig
    longest: int
    here: bool
    whole_prompts: bool = False


def check_models(study: Study, data: RerankingData | None, *, fetch: bool) -> list[ModelCheck]:
    """For each model of the study: it can be had and trained, knows the catalogue's words, and its longest prompts fit.

    Args:
        data: None where they are not here.
        fetch: get and convert what is not here yet, so that trials find it ready; otherwise touch no network.

    Raises:
        InputError: every fault of every model.
        EnvironmentFault: a model cannot be loaded.
    """
    faults, checks = [], []
    for config in study.extremes():
        here = local_folder(config.model) is not None
        longest, whole = config.max_prompt_tokens, False
        if here or fetch:
            try:
                check_base(config)
                if data is not None:
                    longest, whole = _longest_prompt(config, data)
            except InputError as error:
                faults += [fault for fault in error.faults if fault not in faults]
        checks.append(ModelCheck(config, longest, here, whole))
    if faults:
        raise InputError(faults)
    return checks


def describe_compute(study: Study) -> str:
    """On what workers compute, and how."""
    device, _, on_gpu = _device()
    resources, precision = study.resources, study.base().precision
    threads = f"{resources.cpus_per_worker} thread{'s' * (resources.cpus_per_worker > 1)} a worker"
    bf16 = precision == "bf16" or (precision == "auto" and on_gpu)
    numbers = "a bf16 base under an fp32 adapter" if bf16 else "fp32"
    where = device if on_gpu else "CPU"
    return f"compute: {where}, {threads}, {numbers}, label logits in fp32, fused AdamW, torch's attention, not compiled"


def gpu_part(study: Study, checks: list[ModelCheck]) -> float:
    """The part of a GPU that the study's largest model needs; 1 without a GPU, and where a model's shape is not known."""
    _, capacity, on_gpu = _device()
    needs = _needs(study, checks, on_gpu)
    if not on_gpu or any(check.config.model not in needs for check in checks):
        return 1.0
    return part_of(capacity, max(need.total for need, _, _ in needs.values()))


def part_of(capacity: float, needed: float) -> float:
    """One of as many equal parts as hold what is needed, at most four; in the four digits that Ray counts with."""
    together = min(_MOST_ON_A_GPU, int(capacity / needed))
    return math.floor(1e4 / max(1, together)) / 1e4


def describe_memory(study: Study, checks: list[ModelCheck]) -> list[str]:
    """For each model, what a worker needs for its most demanding configuration, and whether the device has it."""
    device, capacity, on_gpu = _device()
    if on_gpu and study.resources.gpus_per_trial != "auto":
        capacity *= min(1.0, study.resources.gpus_per_trial / study.resources.workers)
    needs = _needs(study, checks, on_gpu)
    lines = [f"memory of a worker, estimated ({device}: {capacity / GIB:.1f} GiB)"]
    for model, (need, micro_batch, check) in needs.items():
        lines.append(
            f"  {model}: {need.total / GIB:.1f} GiB = {need.weights / GIB:.2f} weights + {need.adapter / GIB:.2f} adapter "
            f"+ {need.activations / GIB:.2f} activations ({micro_batch} × {check.longest} tokens) "
            f"+ {need.rest / GIB:.1f} else{_verdict(study, check, need, capacity, on_gpu)}"
        )
    whole = sorted({check.config.model for check in checks if check.whole_prompts})
    if whole:
        lines.append(
            f"  titles cannot be tokenised once for all prompts, since tokens reach over their ends: {', '.join(whole)}"
        )
    absent = sorted({check.config.model for check in checks if not check.here})
    if absent:
        lines.append(f"  not here yet, fetched when the search begins: {', '.join(absent)}")
    named = [model for model in absent if model not in MODELS and is_hub_id(model)]
    if named:
        lines.append(f"  not checked, since that needs the network: whether the Hub has {', '.join(named)}")
    return lines


def _device() -> tuple[str, float, bool]:
    """Name, bytes of memory, and whether it is a GPU."""
    name, capacity = device_memory()
    return name, capacity, not name.startswith("this machine")


def _needs(study: Study, checks: list[ModelCheck], on_gpu: bool) -> dict[str, tuple[MemoryEstimate, int, ModelCheck]]:
    """For each model whose shape is known the largest estimate, with its examples a pass."""
    needs: dict[str, tuple[MemoryEstimate, int, ModelCheck]] = {}
    for check in checks:
        shape = shape_of(check.config.model)
        if shape is None:
            continue
        micro_batch = largest_pass(check.config, study.resources.workers, check.longest, "cuda" if on_gpu else "cpu")
        need = estimate(check.config, shape, tokens=check.longest, micro_batch=micro_batch, on_gpu=on_gpu)
        if check.config.model not in needs or need.total > needs[check.config.model][0].total:
            needs[check.config.model] = need, micro_batch, check
    return needs


def _verdict(study: Study, check: ModelCheck, need: MemoryEstimate, capacity: float, on_gpu: bool) -> str:
    if need.total <= capacity:
        return ""
    shape = shape_of(check.config.model)
    assert shape is not None
    least = estimate(
        check.config.model_copy(update={"gradient_checkpointing": True}),
        shape,
        tokens=check.longest,
        micro_batch=1,
        on_gpu=on_gpu,
    ).total
    if least > capacity:
        return f"; DOES NOT FIT: {least / GIB:.1f} GiB at micro batch 1 with gradient_checkpointing"
    return f"; more than there is: the micro batch will be halved until it fits ({least / GIB:.1f} GiB at the least)"


def _longest_prompt(config: TrialConfig, data: RerankingData) -> tuple[int, bool]:
    """Its tokens, and whether prompts are tokenised as a whole."""
    encoder = PromptEncoder(Catalogue(load_tokenizer(config.model), data.interactions.item_texts), config)
    encoder.catalogue.check(config.model)
    examples = data.validation(config)
    if data.config.candidate_mode == "retrieval":  # lists for training hold other items
        examples += data.training_examples(config.model_copy(update={"examples_per_user": 1}), epoch=0)
    longest = sorted(examples, key=lambda e: -sum(len(data.interactions.item_texts[i]) for i in e.candidates))
    return max(len(prompt.input_ids) for prompt in encoder.encode(longest[:64])), encoder.tokenizes_whole_prompts
