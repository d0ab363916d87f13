"""A study and its data → faults that any trial would meet, and what trials will need, before any resource is asked
for."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import NOBODY, Example
from reranker.data.item_token_cache import Catalogue
from reranker.errors import EnvironmentFault, Fault, InputError
from reranker.modeling.memory_estimate import (
    GIB,
    DeviceMemory,
    MemoryEstimate,
    PassSize,
    device_memory,
    estimate,
    host_memory,
)
from reranker.modeling.model_files import local_folder, shape_of
from reranker.modeling.model_names import MODELS, TOYS, is_hub_id, keeps_own_skill
from reranker.modeling.precision import in_bf16
from reranker.modeling.quantisation import check_quantiser
from reranker.prompting.prompts import FIND, PromptEncoder
from reranker.training.batch_plan import examples_of_a_list, largest_pass, pass_tokens, share_of_batch
from reranker.training.lesson_plan import LISTS, lesson_config
from reranker.training.report_plan import ReportPlan
from tune.study_file.dimensions import reach
from tune.study_file.study import Study

_MOST_ON_A_GPU = 4  # trials; more would wait for each other
_MOST_CPUS = 4  # of a worker
_READ = 64  # prompts, or lists, that are tokenised to know what they take


@dataclass(frozen=True)
class ModelCheck:
    """What was found out about one model of a study.

    Attributes:
        longest: tokens of its longest prompts; of a model that is not here, what they may have at most.
        here: whether it need not be fetched first.
        whole_prompts: whether its tokens reach over the ends of titles, so that each prompt is tokenised as a whole.
        listed: tokens of the longest list, where examples share theirs; else 0.
        question: tokens of the longest question behind such a list, with its answer where that is trained on.
        by_title: tokens of the longest question that asks for a candidate by its title, where the base may be taught
            so; else 0.
        alone: why each example has a list of its own although lists could be shared; empty if they are.
        own_lists: how many times as many tokens an example takes with history_first as where lists are shared
            automatically, and how many examples then share one; None where that was not asked for, or is not known.
    """

    config: TrialConfig
    longest: int
    here: bool
    whole_prompts: bool = False
    listed: int = 0
    question: int = 0
    by_title: int = 0
    alone: str = ""
    own_lists: tuple[float, int] | None = None


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
        check = _unread(study, config)
        if check.here or fetch:
            from reranker.modeling.checkpoints import check_base  # takes seconds

            try:
                check_base(config)
                if data is not None:
                    check = _read(study, check, data)
            except InputError as error:
                faults += [fault for fault in error.faults if fault not in faults]
        checks.append(check)
    if faults:
        raise InputError(faults)
    return checks


def fewest_steps(study: Study, data: RerankingData) -> int:
    """Optimiser steps of an epoch in the configuration with the fewest."""
    batch = max(reach("effective_batch", study.fixed, study.dimensions))
    counts = reach("examples_per_user", study.fixed, study.dimensions)
    fewest = min(counts, key=lambda count: math.inf if count is None else count)
    examples = data.count_examples(study.base().model_copy(update={"examples_per_user": fewest}))
    return max(1, math.ceil(examples / int(batch)))


def check_reports(study: Study, data: RerankingData) -> None:
    """
    Raises:
        InputError: an epoch has fewer steps than reports.
    """
    ReportPlan(fewest_steps(study, data), study.reports_per_epoch)


def describe_compute(study: Study) -> str:
    """On what workers compute, and how."""
    memory = _memory(study)
    on_gpu = memory.on_gpu
    base, cpus = study.base(), cpus_per_worker(study, os.cpu_count() or 1, on_gpu=on_gpu)
    threads = f"{cpus} thread{'s' * (cpus > 1)} a worker"
    configs = [_as_held(base.model_copy(update={"model": model}), memory) for model in study.models]
    bf16 = any(in_bf16(config, on_gpu=on_gpu) for config in configs)
    numbers = "a bf16 base under an fp32 adapter" if bf16 else "fp32"
    if on_gpu and not memory.bf16:
        numbers = (
            f"{numbers}, since this GPU has no bf16" if base.precision == "auto" else f"{numbers}, which it imitates"
        )
    where = memory.device if on_gpu else "CPU"
    return f"compute: {where}, {threads}, {numbers}, label logits in fp32, fused AdamW, torch's attention, not compiled"


def cpus_per_worker(study: Study, cores: int, *, on_gpu: bool) -> int:
    """Each with a thread. `auto` shares out the machine's, but for a toy, which two threads slow down, and on a GPU.

    Args:
        cores: of the machine, or of a cluster's largest.
    """
    wanted = study.resources.cpus_per_worker
    if wanted != "auto":
        return wanted
    if on_gpu or set(study.models) <= set(TOYS):
        return 1
    return max(1, min(_MOST_CPUS, cores // (study.resources.workers * (study.settings.concurrency or 1))))


def gpu_part(study: Study, checks: list[ModelCheck]) -> float:
    """The part of a GPU that the study's largest model needs; 1 without a GPU, and where a model's shape is not
    known."""
    memory = _memory(study)
    needs = _needs(study, checks, memory.on_gpu)
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
    memory, capacity = _memory(study), _capacity(study)
    needs = _needs(study, checks, memory.on_gpu)
    others = f", {(memory.total - memory.free) / GIB:.1f} of them used by others" if _is_shared(memory) else ""
    lines = [
        *_describe_order(checks),
        f"memory of a worker, estimated ({memory.device}: {memory.total / GIB:.1f} GiB{others})",
    ]
    for model, (need, size, check) in needs.items():
        lines.append(
            f"  {model}: {need.total / GIB:.1f} GiB = {need.weights / GIB:.2f} weights + {need.adapter / GIB:.2f} adapter "
            f"+ {need.activations / GIB:.2f} activations ({size}) "
            f"+ {need.rest / GIB:.1f} else{_verdict(study, check, need, capacity, memory.on_gpu)}"
        )
    lines += [f"  {model}: not known before its configuration is here" for model in study.models if model not in needs]
    whole = sorted({check.config.model for check in checks if check.whole_prompts})
    for check in checks:
        if check.alone:
            lines.append(f"  {check.config.model}: each example has a list of its own, since {check.alone}")
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


def check_device(study: Study, checks: list[ModelCheck]) -> None:
    """A GPU that is here can be used, and each model's smallest passes fit the device.

    Raises:
        EnvironmentFault: torch can't use the GPU.
        InputError: a model does not fit, whatever its passes are.
    """
    memory, capacity = _memory(study), _capacity(study)
    check_quantisation(study)
    if memory.on_gpu:
        _check_gpu(memory.device)
    faults = []
    for check in {check.config.model: check for check in checks}.values():
        least = _least(study, check, memory.on_gpu)
        if least is not None and least > capacity:
            rule = f"a model must fit {memory.device}, {capacity / GIB:.1f} GiB; it needs {least / GIB:.1f}"
            hint = "a smaller model, fewer or shorter titles, or a device with more memory"
            faults.append(Fault(rule, field="model", value=check.config.model, hint=hint))
    if faults:
        raise InputError(faults)


def check_quantisation(study: Study) -> None:
    """
    Raises:
        InputError: a base may be quantised, and there is no GPU.
        EnvironmentFault: the package for it is missing.
    """
    if "nf4" not in reach("quantisation", study.fixed, study.dimensions):
        return
    if not _memory(study).on_gpu:
        rule = "quantisation must be none where trials train on a CPU, which unpacks 4 bits at every step"
        raise InputError([Fault(rule, field="quantisation", value="nf4")])
    check_quantiser()


def _check_gpu(name: str) -> None:
    import torch

    if torch.cuda.is_available():
        return
    without = "or train on the CPU with --set resources.gpus_per_trial=0"
    if torch.version.cuda is None:
        raise EnvironmentFault(
            f"there is a GPU here ({name}), and torch {torch.__version__} was built without CUDA: install a torch for "
            f"CUDA (pip install -r requirements-cuda.txt), {without}"
        )
    raise EnvironmentFault(
        f"there is a GPU here ({name}), and torch {torch.__version__} cannot use it; its driver may be too old for CUDA "
        f"{torch.version.cuda}: update the driver, install a torch for an older CUDA, {without}"
    )


def _memory(study: Study) -> DeviceMemory:
    """Of the device that the study's workers compute on."""
    return host_memory() if study.resources.gpus_per_trial == 0 else device_memory()


def _capacity(study: Study) -> float:
    """Bytes for a worker: a share of what is free on a GPU, or the host's."""
    memory, gpus = _memory(study), study.resources.gpus_per_trial
    if not memory.on_gpu:
        return memory.total
    share = 1.0 if gpus == "auto" else min(1.0, gpus / study.resources.workers)
    return memory.free if share == 1 else min(memory.free, share * memory.total)


def _as_held(config: TrialConfig, memory: DeviceMemory) -> TrialConfig:
    """With the precision that `auto` has on a GPU without bf16."""
    if config.precision != "auto" or not memory.on_gpu or memory.bf16:
        return config
    return config.model_copy(update={"precision": "fp32"})


def _is_shared(memory: DeviceMemory) -> bool:
    return memory.on_gpu and memory.free < 0.9 * memory.total


def _describe_order(checks: list[ModelCheck]) -> list[str]:
    ratios = [check.own_lists for check in checks if check.own_lists is not None]
    if not ratios:
        return []
    times, together = max(ratios)
    shared = f"candidates_first with list_sharing {together}"
    return [f"history_first: each example computes its own list, {times:.1f} times the tokens of {shared}"]


def _needs(
    study: Study, checks: list[ModelCheck], on_gpu: bool
) -> dict[str, tuple[MemoryEstimate, PassSize, ModelCheck]]:
    """For each model whose shape is known the largest estimate, with its largest pass."""
    needs: dict[str, tuple[MemoryEstimate, PassSize, ModelCheck]] = {}
    for check in chain.from_iterable(_with_and_without_sharing(study, check) for check in checks):
        shape = shape_of(check.config.model)
        if shape is None:
            continue
        for config, size in _largest_passes(study, check, on_gpu):
            need = estimate(config, shape, size, on_gpu=on_gpu)
            if check.config.model not in needs or need.total > needs[check.config.model][0].total:
                needs[check.config.model] = need, size, check
    return needs


def _with_and_without_sharing(study: Study, check: ModelCheck) -> Iterator[ModelCheck]:
    """Where it is searched whether lists are shared, a configuration without is as possible and may need more."""
    yield check
    if check.listed and {"list_sharing", "prompt_order"} & set(study.knobs):
        yield replace(check, listed=0)


def _largest_passes(study: Study, check: ModelCheck, on_gpu: bool) -> list[tuple[TrialConfig, PassSize]]:
    """One worker's in training, and in the lesson before it, where all lists, and all questions, are as long as the
    longest."""
    config, listed, workers = check.config, check.listed, study.resources.workers
    most = pass_tokens(config, shape_of(config.model), "cuda" if on_gpu else "cpu", _capacity(study))
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


def _largest_pass(lists: int, together: int, listed: int, question: int, limit: int | None, most: int) -> PassSize:
    """Of a step's lists, each with so many questions behind it.

    Args:
        limit: examples of a pass, or None.
        most: tokens of a pass, where there is no limit.
    """
    branches = max(1, min(together, limit or (most - listed) // question))
    rows = limit // branches if limit else most // (listed + branches * question)
    return PassSize(max(1, min(rows, lists * math.ceil(together / branches))), question, listed, branches)


def _verdict(study: Study, check: ModelCheck, need: MemoryEstimate, capacity: float, on_gpu: bool) -> str:
    if need.total <= capacity:
        return ""
    least = _least(study, check, on_gpu)
    assert least is not None
    if least > capacity:
        return f"; DOES NOT FIT: {least / GIB:.1f} GiB at micro batch 1 with gradient_checkpointing"
    return f"; more than there is: the micro batch will be halved until it fits ({least / GIB:.1f} GiB at the least)"


def _least(study: Study, check: ModelCheck, on_gpu: bool) -> float | None:
    """What the model's smallest passes need, in bytes; None if its shape is not known."""
    shape = shape_of(check.config.model)
    if shape is None:
        return None
    smallest = check.config.model_copy(update={"gradient_checkpointing": True, "micro_batch": 1})
    passes = _largest_passes(study, replace(check, config=smallest), on_gpu)
    return max(estimate(config, shape, size, on_gpu=on_gpu).total for config, size in passes)


def _unread(study: Study, config: TrialConfig) -> ModelCheck:
    """What prompts may have at most, as though all titles were of one length."""
    config = _as_held(config, _memory(study))
    here, most = local_folder(config.model) is not None, config.max_prompt_tokens
    if not _shares_lists(study, config):
        return ModelCheck(config, most, here)
    listed = most * config.candidates // (config.candidates + config.history_length)
    return ModelCheck(config, most, here, listed=listed, question=most - listed)


def _read(study: Study, check: ModelCheck, data: RerankingData) -> ModelCheck:
    """With the tokens of the longest prompts, lists and questions."""
    from reranker.modeling.checkpoints import load_tokenizer

    config, texts = check.config, data.interactions.item_texts
    encoder = PromptEncoder(Catalogue(load_tokenizer(config.model), texts), config)
    encoder.catalogue.check(config.model)
    examples = data.validation(config)
    if data.config.candidate_mode == "retrieval":  # lists for training hold other items
        examples += data.training_examples(config.model_copy(update={"examples_per_user": 1}), epoch=0)

    def letters(items: tuple[int, ...]) -> int:
        return sum(len(texts[i]) for i in items)

    listed = question = by_title = 0
    lists = sorted(examples, key=lambda e: -letters(e.candidates))[:_READ]
    longest = max(len(prompt.input_ids) for prompt in encoder.encode(lists))
    if _shares_lists(study, config) and encoder.shares_lists:
        asked = sorted(examples, key=lambda e: -letters(e.history[-config.history_length :]))[:_READ]
        shared = [encoder.encode_shared([example]) for example in [*lists, *asked]]
        listed = max(len(prompt.listed) for prompt in shared)
        answer = len(encoder.answer_ids[0]) if config.objective == "token_ce" else 0
        question = max(len(prompt.questions[0].input_ids) for prompt in shared) + answer
        if config.skill_steps != 0 and not keeps_own_skill(config):
            finder = PromptEncoder(encoder.catalogue, config, FIND)
            longest_title = max(range(len(texts)), key=lambda item: len(texts[item]))
            asked_for = Example(NOBODY, (longest_title,), lists[0].candidates, 0)
            by_title = len(finder.encode_shared([asked_for]).questions[0].input_ids) + answer
    own = _own_lists(study, config, encoder.catalogue, data) if _can_be_history_first(study) else None
    return replace(
        check,
        longest=longest,
        whole_prompts=encoder.tokenizes_whole_prompts,
        listed=listed,
        question=question,
        by_title=by_title,
        alone=_why_alone(config, on_gpu=_memory(study).on_gpu) if _shares_lists(study, config) else "",
        own_lists=own,
    )


def _why_alone(config: TrialConfig, *, on_gpu: bool) -> str:
    from reranker.modeling.architecture_check import architecture_of
    from reranker.modeling.checkpoints import describe

    described = describe(config.model)
    architecture = architecture_of(described)
    if architecture.shares_lists:
        return ""
    if not architecture.tried:
        return f"no miniature of its architecture, {described.model_type}, could be built to try shared ones"
    kinds = getattr(described.get_text_config(), "layer_types", None) or []
    if "linear_attention" not in kinds:
        return f"{described.model_type} has layers that read on from what stood before, or attention of its own kind"
    missing = on_gpu and importlib.util.find_spec("fla") is None
    remedy = "; torch computes it, slower than pip install flash-linear-attention causal-conv1d" * missing
    return f"{kinds.count('linear_attention')} of its {len(kinds)} layers are linear attention{remedy}"


def _can_be_history_first(study: Study) -> bool:
    drawn = [dimension for dimension in study.dimensions if "prompt_order" in dimension.knobs]
    ends = [dimension.assign(end)["prompt_order"] for dimension in drawn for end in dimension.distribution.ends({})]
    return "history_first" in [study.base().prompt_order, *ends]


def _own_lists(
    study: Study, config: TrialConfig, catalogue: Catalogue, data: RerankingData
) -> tuple[float, int] | None:
    """See ModelCheck; counted in lists of some users."""
    config = config.model_copy(update={"prompt_order": "candidates_first", "list_sharing": "auto"})
    encoder = PromptEncoder(catalogue, config)
    if not encoder.shares_lists or not _shares_lists(study, config):
        return None
    users = min(_READ, data.config.training_users or _READ)
    some = replace(data, config=data.config.model_copy(update={"training_users": users}))
    together = examples_of_a_list(config, study.resources.workers)
    prompts = [encoder.encode_shared(examples) for examples in some.shared_examples(config, 0, together)[:_READ]]
    shared = sum(len(p.listed) + sum(len(question.input_ids) for question in p.questions) for p in prompts)
    return (sum(prompt.tokens for prompt in prompts) / shared, together) if prompts else None


def _shares_lists(study: Study, config: TrialConfig) -> bool:
    """A batch that the workers can't share evenly is for its trial to tell."""
    workers = study.resources.workers
    return config.effective_batch % workers == 0 and examples_of_a_list(config, workers) > 1
