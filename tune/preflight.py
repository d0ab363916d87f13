"""A study and its data → faults that any trial would meet, and what trials will need, before any resource is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from reranker.catalogue import Catalogue
from reranker.config import TrialConfig
from reranker.data import RerankingData
from reranker.errors import EnvironmentFault, InputError
from reranker.memory import GIB, MemoryEstimate, device_memory, estimate, shape_of
from reranker.models import load_tokenizer, local_folder
from reranker.prompts import PromptEncoder
from reranker.sft import largest_pass
from tune.search_space import Study


@dataclass(frozen=True)
class ModelCheck:
    """What was found out about one model of a study.

    Attributes:
        longest: tokens of its longest prompts; of a model that is not here, what they may have at most.
        here: whether it need not be fetched first.
    """

    config: TrialConfig
    longest: int
    here: bool


def check_models(study: Study, data: RerankingData | None, *, fetch: bool) -> list[ModelCheck]:
    """For each model of the study: it can be had, it knows the catalogue's words, and its longest prompts fit.

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
        longest = config.max_prompt_tokens
        if data is not None and (here or fetch):
            try:
                longest = _longest_prompt(config, data)
            except InputError as error:
                faults += [fault for fault in error.faults if fault not in faults]
        checks.append(ModelCheck(config, longest, here))
    if faults:
        raise InputError(faults)
    return checks


def check_writable(folder: Path) -> None:
    """Raise EnvironmentFault where nothing can be written."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        raise EnvironmentFault(f"no permission to write in {existing}; name another folder with --runs")


def describe_memory(study: Study, checks: list[ModelCheck]) -> list[str]:
    """For each model, what a worker needs for its most demanding configuration, and whether the device has it."""
    device, capacity = device_memory()
    on_gpu = not device.startswith("this machine")
    if on_gpu and study.resources.gpus_per_trial != "auto":
        capacity *= min(1.0, study.resources.gpus_per_trial / study.resources.workers)
    needs: dict[str, tuple[MemoryEstimate, int, ModelCheck]] = {}
    for check in checks:
        shape = shape_of(check.config.model)
        if shape is None:
            continue
        micro_batch = largest_pass(check.config, study.resources.workers, check.longest, "cuda" if on_gpu else "cpu")
        need = estimate(check.config, shape, tokens=check.longest, micro_batch=micro_batch, on_gpu=on_gpu)
        if check.config.model not in needs or need.total > needs[check.config.model][0].total:
            needs[check.config.model] = need, micro_batch, check
    lines = [f"memory of a worker, estimated ({device}: {capacity / GIB:.1f} GiB)"]
    for model, (need, micro_batch, check) in needs.items():
        lines.append(
            f"  {model}: {need.total / GIB:.1f} GiB = {need.weights / GIB:.2f} weights + {need.adapter / GIB:.2f} adapter "
            f"+ {need.activations / GIB:.2f} activations ({micro_batch} × {check.longest} tokens) "
            f"+ {need.rest / GIB:.1f} else{_verdict(study, check, need, capacity, on_gpu)}"
        )
    absent = sorted({check.config.model for check in checks if not check.here})
    if absent:
        lines.append(f"  not here yet, fetched when the search begins: {', '.join(absent)}")
    return lines


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


def _longest_prompt(config: TrialConfig, data: RerankingData) -> int:
    encoder = PromptEncoder(Catalogue(load_tokenizer(config.model), data.interactions.item_texts), config)
    encoder.catalogue.check_vocabulary(config.model)
    examples = data.validation(config)
    longest = sorted(examples, key=lambda e: -sum(len(data.interactions.item_texts[i]) for i in e.candidates))
    return max(len(prompt.input_ids) for prompt in encoder.encode(longest[:64]))
