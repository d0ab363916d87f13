"""A study's checked models → the memory that a worker needs of its device, by the largest pass of each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from reranker.config import TrialConfig
from reranker.errors import Fault, InputError
from reranker.modeling.checkpoints.model_files import shape_of
from reranker.modeling.checkpoints.model_names import MODELS, is_hub_id
from reranker.modeling.checkpoints.model_shape import Shape
from reranker.modeling.memory.base_sharding import divides
from reranker.modeling.memory.memory_estimate import GIB, DeviceMemory, MemoryEstimate, PassSize, estimate
from reranker.training.batch_plan import checkpoints, examples_of_a_list, largest_pass, pass_tokens, share_of_batch
from reranker.training.label_skill_cost import LISTS, lesson_config
from tune.study_file.preflight import ModelCheck
from tune.study_file.study import Study
from tune.study_file.worker_device import (
    check_compiling,
    check_gpu,
    check_mps,
    check_quantisation,
    is_shared,
    worker_capacity,
    worker_memory,
)

_MOST_ON_A_GPU = 4  # trials; more would wait for each other


def gpu_part(study: Study, checks: list[ModelCheck], memory: DeviceMemory | None = None) -> float:
    """The part of a GPU that the study's largest model needs; 1 without a GPU, and where a model's shape is not known.

    Args:
        memory: of the smallest GPU of a cluster; None: of this machine's.
    """
    memory = memory or worker_memory(study)
    needs = _needs(study, checks, memory)
    if not memory.on_gpu or any(check.config.model not in needs for check in checks):
        return 1.0
    return part_of(memory.free, max(need.total for need, _, _ in needs.values()))


def part_of(capacity: float, needed: float) -> float:
    """One of as many equal parts as hold what is needed, at most four; in the four digits that Ray counts with."""
    together = min(_MOST_ON_A_GPU, int(capacity / needed))
    return math.floor(1e4 / max(1, together)) / 1e4


def describe_memory(study: Study, checks: list[ModelCheck]) -> list[str]:
    """What history_first costs; for each model, what its most demanding configuration needs, and whether there is that
    much."""
    memory = worker_memory(study)
    capacity, needs = worker_capacity(study, memory), _needs(study, checks, memory)
    others = f", {(memory.total - memory.free) / GIB:.1f} of them used by others" if is_shared(memory) else ""
    lines = [
        *_describe_order(checks),
        f"memory of a worker, estimated ({memory.device}: {memory.total / GIB:.1f} GiB{others})",
    ]
    for model, (need, size, check) in needs.items():
        lines.append(
            f"  {model}: {need.total / GIB:.1f} GiB = {need.weights / GIB:.2f} weights + {need.adapter / GIB:.2f} adapter "
            f"+ {need.activations / GIB:.2f} activations ({size}) "
            f"+ {need.rest / GIB:.1f} else{', with gradient checkpointing' if check.config.gradient_checkpointing else ''}"
            f"{_division(study, check, memory)}"
            f"{_verdict(study, check, need, capacity, memory)}"
        )
    lines += [f"  {model}: not known before its configuration is here" for model in study.models if model not in needs]
    whole = sorted({check.config.model for check in checks if check.whole_prompts})
    for check in checks:
        if check.alone:
            what = "example has a list" if check.config.scoring == "listwise" else "candidate has a whole prompt"
            lines.append(f"  {check.config.model}: each {what} of its own, since {check.alone}")
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


def check_device(study: Study, checks: list[ModelCheck], of_nodes: DeviceMemory | None = None) -> None:
    """A GPU that is here can be used, and each model's smallest passes fit the device.

    Args:
        of_nodes: the smallest GPU of a cluster, which takes the place of this machine's device.

    Raises:
        EnvironmentFault: torch can't use the GPU.
        InputError: a model does not fit, whatever its passes are.
    """
    memory = of_nodes or worker_memory(study)
    capacity = worker_capacity(study, memory)
    check_quantisation(study, memory)
    check_compiling(study, memory)
    if of_nodes is None:
        check_mps(study, memory)
    if memory.on_gpu and of_nodes is None:
        check_gpu(memory.device)
    faults = []
    for check in {check.config.model: check for check in checks}.values():
        least = _least(study, check, memory)
        if least is not None and least > capacity:
            rule = f"a model must fit {memory.device}, {capacity / GIB:.1f} GiB; it needs {least / GIB:.1f}"
            hint = "a smaller model, fewer or shorter titles, or a device with more memory"
            if memory.on_gpu and study.resources.workers == 1:
                hint = f"{hint}; or resources.workers on a GPU each, which divide the model's layers"
            faults.append(Fault(rule, field="model", value=check.config.model, hint=hint))
    if faults:
        raise InputError(faults)


def _describe_order(checks: list[ModelCheck]) -> list[str]:
    ratios = [check.own_lists for check in checks if check.own_lists is not None]
    if not ratios:
        return []
    times, together = max(ratios)
    shared = f"candidates_first with list_sharing {together}"
    return [f"history_first: each example computes its own list, {times:.1f} times the tokens of {shared}"]


def _needs(
    study: Study, checks: list[ModelCheck], memory: DeviceMemory
) -> dict[str, tuple[MemoryEstimate, PassSize, ModelCheck]]:
    """For each model whose shape is known the largest estimate, with its largest pass."""
    needs: dict[str, tuple[MemoryEstimate, PassSize, ModelCheck]] = {}
    for check in chain.from_iterable(_with_and_without_sharing(study, check) for check in checks):
        shape = _held(study, check.config, memory)
        if shape is None:
            continue
        for config, size in _largest_passes(study, check, memory):
            need = estimate(config, shape, size, on_gpu=memory.on_gpu)
            if check.config.model not in needs or need.total > needs[check.config.model][0].total:
                needs[check.config.model] = need, size, replace(check, config=config)
    return needs


def _held(study: Study, config: TrialConfig, memory: DeviceMemory) -> Shape | None:
    """The shape of the configuration's model as each worker holds it; None if it is not known."""
    shape, workers = shape_of(config.model), study.resources.workers
    device, capacity = "cuda" if memory.on_gpu else "cpu", worker_capacity(study, memory)
    if shape is None or not divides(config, shape, device, capacity, workers):
        return shape
    return replace(shape, shards=workers)


def _with_and_without_sharing(study: Study, check: ModelCheck) -> Iterator[ModelCheck]:
    """Where it is searched whether lists are shared, a configuration without is as possible and may need more."""
    yield check
    if check.listed and check.config.scoring == "listwise" and {"list_sharing", "prompt_order"} & set(study.knobs):
        yield replace(check, listed=0)


def _largest_passes(study: Study, check: ModelCheck, memory: DeviceMemory) -> list[tuple[TrialConfig, PassSize]]:
    """One worker's in training, and in the lesson before it, where all lists, and all questions, are as long as the
    longest."""
    listed, workers, shape = check.listed, study.resources.workers, _held(study, check.config, memory)
    device, capacity = "cuda" if memory.on_gpu else "cpu", worker_capacity(study, memory)
    checkpointed = checkpoints(check.config, shape, device, capacity)
    config = check.config.model_copy(update={"gradient_checkpointing": checkpointed})
    most = pass_tokens(config, shape, device, capacity)
    if config.scoring == "pointwise":
        return [(config, _of_candidates(config, workers, check, most))]
    if not listed:
        return [(config, PassSize(largest_pass(config, workers, check.longest, most), check.longest))]
    together = examples_of_a_list(config, workers)
    lists = share_of_batch(config, workers) // together
    mixed = math.ceil(together / (1 - config.skill_mix))
    passes = [(config, _largest_pass(lists, mixed, listed, check.question, config.micro_batch, most))]
    if check.by_title:
        lists = math.ceil(LISTS / workers)
        size = _largest_pass(lists, config.candidates, listed, check.by_title, config.micro_batch, most)
        passes.append((lesson_config(config), size))
    return passes


def _of_candidates(config: TrialConfig, workers: int, check: ModelCheck, most: int) -> PassSize:
    """Of examples whose candidates are asked of one by one; those of an example are never divided."""
    count = config.candidates
    if not check.listed:
        examples = largest_pass(config, workers, count * check.longest, most)
        return PassSize(examples * count, check.longest)
    examples = largest_pass(config, workers, check.listed + count * check.question, most)
    return PassSize(examples, check.question, check.listed, count, pointwise=True)


def _largest_pass(lists: int, together: int, listed: int, question: int, limit: int | None, most: int) -> PassSize:
    """Of a step's lists, each with so many questions behind it.

    Args:
        limit: examples of a pass, or None.
        most: tokens of a pass, where there is no limit.
    """
    branches = max(1, min(together, limit or (most - listed) // question))
    rows = limit // branches if limit else most // (listed + branches * question)
    return PassSize(max(1, min(rows, lists * math.ceil(together / branches))), question, listed, branches)


def _division(study: Study, check: ModelCheck, memory: DeviceMemory) -> str:
    shape = _held(study, check.config, memory)
    return f", its layers divided among {shape.shards} workers" if shape is not None and shape.shards > 1 else ""


def _verdict(study: Study, check: ModelCheck, need: MemoryEstimate, capacity: float, memory: DeviceMemory) -> str:
    if need.total <= capacity:
        return ""
    least = _least(study, check, memory)
    assert least is not None
    if least > capacity:
        return f"; DOES NOT FIT: {least / GIB:.1f} GiB at micro batch 1 with gradient_checkpointing"
    return f"; more than there is: the micro batch will be halved until it fits ({least / GIB:.1f} GiB at the least)"


def _least(study: Study, check: ModelCheck, memory: DeviceMemory) -> float | None:
    """What the model's smallest passes need, in bytes; None if its shape is not known."""
    shape = _held(study, check.config, memory)
    if shape is None:
        return None
    smallest = check.config.model_copy(update={"gradient_checkpointing": True, "micro_batch": 1})
    passes = _largest_passes(study, replace(check, config=smallest), memory)
    return max(estimate(config, shape, size, on_gpu=memory.on_gpu).total for config, size in passes)
