"""A study and its data → faults that any trial would meet, before any resource is asked for."""

from __future__ import annotations

import importlib.util
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import optuna
from pydantic import ValidationError

from reranker.config import ImageMode, TrialConfig, validation_faults
from reranker.data.agreement import disagreements
from reranker.data.assemble import RerankingData
from reranker.data.example import NOBODY, Example
from reranker.data.item_token_cache import Catalogue
from reranker.data.teachers.teacher import check_size
from reranker.errors import Fault, InputError
from reranker.modeling.checkpoints.model_files import local_folder
from reranker.modeling.checkpoints.model_names import keeps_own_skill
from reranker.prompting.pointwise_prompts import PointwiseEncoder, encoder_of
from reranker.prompting.prompts import FIND, PromptEncoder
from reranker.training.batch_plan import examples_of_a_list
from reranker.training.report_plan import ReportPlan
from tune.study_file.dimensions import reach, with_defaults
from tune.study_file.space import broken_rules
from tune.study_file.study import Study
from tune.study_file.worker_device import as_held, worker_memory

_LETTERS_OF_A_TOKEN = 4  # about as many as an English text has
_READ = 64  # prompts, or lists, that are tokenised to know what they take
_DRAWS = 300  # configurations that are held against the data
_AT_LONGEST: dict[str, Any] = {
    "teacher": "none",  # which prompts do not show, and which would be fitted here for nothing
    "first_candidates": None,
}


@dataclass(frozen=True)
class ModelCheck:
    """What was found out about one model of a study.

    Attributes:
        longest: tokens of its longest prompts, with those that lead to labels of several tokens; of a model that is not
            here, what prompts may have at most.
        here: whether it need not be fetched first.
        whole_prompts: whether its tokens reach over the ends of titles, so that each prompt is tokenised as a whole.
        listed: tokens of the longest list, where examples share theirs; pointwise of the longest history with the words
            around it, where candidates share theirs; else 0.
        question: tokens of the longest question behind such a list, with its answer where that is trained on, and with
            those that lead to labels of several tokens; pointwise of the longest candidate.
        by_title: tokens of the longest question that asks for a candidate by its title, where the base may be taught
            so; else 0.
        alone: why each example has a list of its own although lists could be shared, or pointwise each candidate a whole
            prompt; empty if they are.
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


def check_models(
    study: Study, data: RerankingData | None, *, fetch: bool, tell: Callable[[str], None] = lambda text: None
) -> list[ModelCheck]:
    """For each model of the study: it can be had and trained, knows the catalogue's words, and its longest prompts fit.

    Args:
        data: None where they are not here.
        fetch: get, convert and make what is not here yet, so that trials find it ready; otherwise touch no network.
        tell: how far the making of captions is.

    Raises:
        InputError: every fault of every model.
        EnvironmentFault: a model cannot be loaded.
    """
    faults, checks = [], []
    if data is not None:
        faults += check_images(study, data)
        if not faults and fetch and "caption" in image_modes(study):
            from reranker.modeling.images.captions import have_captions

            have_captions(data, tell)
    for config in _extremes(study):
        check = _unread(study, config)
        if check.here or fetch:
            from reranker.modeling.model_loading import check_base  # takes seconds

            try:
                check_base(config)
                if data is not None and _is_readable(config, data):
                    check = _read(study, check, data)
                    _check_context(check)
            except InputError as error:
                faults += [fault for fault in error.faults if fault not in faults]
        checks.append(check)
    if faults:
        raise InputError(faults)
    return checks


def image_modes(study: Study) -> list[ImageMode]:
    """All that can be drawn."""
    return list(reach("image_mode", study.fixed, study.dimensions))


def _extremes(study: Study) -> list[TrialConfig]:
    """The study's, in image modes that each model is drawn with: not every model reads images. Where one may read them
    itself, which needs the most memory, one does."""
    configs = []
    for model in study.models:
        modes = _modes_of(study, model)
        own = [config for config in study.extremes() if config.model == model]
        own = [_reading(study, c, c.image_mode if c.image_mode in modes else modes[0]) for c in own]
        if own and "raw_image" in modes and all(config.image_mode != "raw_image" for config in own):
            own.append(_reading(study, own[-1], "raw_image"))
        configs += own
    return [config for drawn in configs for config in _in_each_form(study, drawn)]


def _in_each_form(study: Study, config: TrialConfig) -> list[TrialConfig]:
    """The configuration in each way to ask that goes with its other knobs: which needs more memory, the lists tell."""
    forms = reach("scoring", study.fixed, study.dimensions)
    others = [config.model_copy(update={"scoring": form}) for form in forms if form != config.scoring]
    return [config, *(other for other in others if not broken_rules(other.model_dump()))]


def _modes_of(study: Study, model: str) -> list[ImageMode]:
    """The image modes that this model is drawn with."""
    dimension = next((dimension for dimension in study.dimensions if "image_mode" in dimension.knobs), None)
    if dimension is None:
        return image_modes(study)
    drawn = [dimension.assign(end) for end in dimension.distribution.ends({})]
    if "model" in dimension.knobs:
        return [values["image_mode"] for values in drawn if values["model"] == model]
    if model in dimension.when.get("model", [model]):
        return [values["image_mode"] for values in drawn]
    return [with_defaults(study.fixed)["image_mode"]]


def _reading(study: Study, config: TrialConfig, mode: ImageMode) -> TrialConfig:
    """The configuration in this image mode, at the highest ends of what belongs to that."""
    raw = mode == "raw_image"
    pixels, adapted = (max(reach(knob, study.fixed, study.dimensions)) for knob in ("max_image_pixels", "vision_lora"))
    return config.model_copy(
        update={"image_mode": mode, "max_image_pixels": pixels, "vision_lora": raw and bool(adapted)}
    )


def check_images(study: Study, data: RerankingData) -> list[Fault]:
    """What the data lack that an image mode of the study needs."""
    faults: list[Fault] = []
    for mode in image_modes(study):
        try:
            data.check_images(mode)
            if mode == "caption":
                captioner_is_here(data)
        except InputError as error:
            faults += error.faults
    return faults


def captioner_is_here(data: RerankingData) -> bool:
    """Whether the data's caption model, if there is one, need not be fetched first.

    Raises:
        InputError: there can be no such model, or it describes no images.
        EnvironmentFault: its files can't be read.
    """
    images = data.interactions.images
    if images is None or images.caption_model is None:
        return True
    from reranker.modeling.images.captions import check_captioner  # takes seconds

    return check_captioner(images.caption_model)


def _is_readable(config: TrialConfig, data: RerankingData) -> bool:
    """Whether the texts that the model reads are here; captions may be still to be made."""
    if config.image_mode != "caption":
        return True
    from reranker.modeling.images.captions import are_kept, have_captions  # takes seconds

    if data.interactions.captioned is None or not are_kept(data):
        return False
    have_captions(data)
    return True


class _ToTheEnds(optuna.samplers.RandomSampler):  # type: ignore[misc]
    """Draws half of the numbers at an end of their range: where numbers clash, those at the ends do."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._at_an_end = random.Random(seed)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: optuna.distributions.BaseDistribution,
    ) -> Any:
        """One value of a knob."""
        is_choice = isinstance(param_distribution, optuna.distributions.CategoricalDistribution)
        if is_choice or self._at_an_end.random() < 0.5:
            return super().sample_independent(study, trial, param_name, param_distribution)
        return self._at_an_end.choice((param_distribution.low, param_distribution.high))


def check_agreement(study: Study) -> None:
    """
    Raises:
        InputError: knobs that the study can draw do not go together, or not with its data.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    faults: dict[Fault, None] = {}
    draws: list[Callable[[], list[TrialConfig]]] = [study.extremes]
    draws += [partial(_drawn, study, trial) for trial in _some_trials(study)]
    for draw in draws:
        try:
            for config in draw():
                faults |= dict.fromkeys(disagreements(config, study.data))
        except ValidationError as error:
            hint = "trials would be drawn that break this; a condition (`when`) keeps the knobs apart"
            faults |= {
                replace(fault, field="space", hint=hint): None for fault in validation_faults(error, TrialConfig)
            }
    if faults:
        raise InputError(faults)


def _drawn(study: Study, trial: optuna.trial.BaseTrial) -> list[TrialConfig]:
    return [study.draw(trial)]


def _some_trials(study: Study) -> Iterator[optuna.trial.BaseTrial]:
    """Some of those that can be drawn; of a grid all."""
    if study.settings.sampler == "grid":
        yield from map(optuna.trial.FixedTrial, study.grid())
        return
    drawn = optuna.create_study(sampler=_ToTheEnds(seed=0))
    for _ in range(_DRAWS):
        yield drawn.ask()


def check_teachers(study: Study, data: RerankingData) -> None:
    """
    Raises:
        InputError: there are more items than a teacher can have.
    """
    for name in reach("teacher", study.fixed, study.dimensions):
        check_size(name, len(data.interactions.item_ids))


def check_grades(study: Study, data: RerankingData) -> None:
    """
    Raises:
        InputError: right items may be graded by ratings, and there are none.
    """
    if "rating" in reach("positive_grades", study.fixed, study.dimensions):
        data.interactions.check_rated()


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


def _unread(study: Study, config: TrialConfig) -> ModelCheck:
    """What prompts may have at most, as though all titles were of one length."""
    config = as_held(config, worker_memory(study))
    here, most = local_folder(config.model) is not None, config.max_prompt_tokens
    if config.scoring == "pointwise":
        question = most // (1 + config.history_length)
        return ModelCheck(config, most, here, listed=most - question, question=question)
    if not _shares_lists(study, config):
        return ModelCheck(config, most, here)
    listed = most * config.candidates // (config.candidates + config.history_length)
    return ModelCheck(config, most, here, listed=listed, question=most - listed)


def _read(study: Study, check: ModelCheck, data: RerankingData) -> ModelCheck:
    """With the tokens of the longest prompts, lists and questions."""
    from reranker.modeling.item_catalogue import item_catalogue  # takes seconds

    config, texts = check.config, data.item_texts(check.config)
    encoder = encoder_of(item_catalogue(config, data), config)
    marks = encoder.catalogue.marks
    examples = data.validation(config)
    if data.config.candidate_mode == "retrieval":  # lists for training hold other items
        examples += data.training_examples(config.model_copy(update={"examples_per_user": 1, **_AT_LONGEST}), epoch=0)

    def letters(items: tuple[int, ...]) -> int:
        images = 0 if marks is None else sum(_LETTERS_OF_A_TOKEN * marks.counts[i] for i in items)
        return sum(len(texts[i]) for i in items) + images

    longest_first = sorted(examples, key=lambda e: -letters(e.history[-config.history_length :]))[:_READ]
    why_alone = _why_alone(config, on_gpu=worker_memory(study).on_gpu)
    if isinstance(encoder, PointwiseEncoder):
        longest_item = sorted(examples, key=lambda e: -max(letters((item,)) for item in e.candidates))[:_READ]
        return replace(_of_candidates(check, encoder, longest_first + longest_item), alone=why_alone)
    for style in sorted(set(reach("label_style", study.fixed, study.dimensions)) - {config.label_style}):
        PromptEncoder(encoder.catalogue, config.model_copy(update={"label_style": style}))
    listed = question = by_title = 0
    lists = sorted(examples, key=lambda e: -letters(e.candidates))[:_READ]
    behind = len(encoder.answer_ids[0]) if config.objective == "token_ce" else len(encoder.trie.nodes)
    longest = max(len(prompt.input_ids) for prompt in encoder.encode(lists)) + len(encoder.trie.nodes)
    if _shares_lists(study, config) and encoder.shares_lists:
        shared = [encoder.encode_shared([example]) for example in [*lists, *longest_first]]
        listed = max(len(prompt.listed) for prompt in shared)
        question = max(len(prompt.questions[0].input_ids) for prompt in shared) + behind
        if config.skill_steps != 0 and not keeps_own_skill(config):
            finder = PromptEncoder(encoder.catalogue, config, FIND)
            longest_title = max(range(len(texts)), key=lambda item: letters((item,)))
            asked_for = Example(NOBODY, (longest_title,), lists[0].candidates, 0)
            by_title = len(finder.encode_shared([asked_for]).questions[0].input_ids) + behind
    own = _own_lists(study, config, encoder.catalogue, data) if _can_be_history_first(study) else None
    return replace(
        check,
        longest=longest,
        whole_prompts=encoder.tokenizes_whole_prompts,
        listed=listed,
        question=question,
        by_title=by_title,
        alone=why_alone if _shares_lists(study, config) else "",
        own_lists=own,
    )


def _of_candidates(check: ModelCheck, encoder: PointwiseEncoder, examples: list[Example]) -> ModelCheck:
    """With the tokens of these lists' longest prompts, histories and candidates."""
    prompts = encoder.encode(examples)
    longest = max(prompt.longest for prompt in prompts)
    if not encoder.shares_beginnings:
        return replace(check, longest=longest, listed=0, question=0)
    listed = max(len(prompt.beginning) for prompt in prompts)
    return replace(check, longest=longest, listed=listed, question=max(len(ids) for p in prompts for ids in p.items))


def _check_context(check: ModelCheck) -> None:
    """
    Raises:
        InputError: the longest prompt, with the tokens that lead to its label, is longer than the model can read.
    """
    from reranker.modeling.model_loading import describe

    config = check.config
    most = getattr(describe(config.model).get_text_config(), "max_position_embeddings", None)
    needed = check.longest
    if config.scoring == "listwise":
        needed = max(needed, check.listed + max(check.question, check.by_title))
    if isinstance(most, int) and needed > most:
        rule = f"a prompt and its label must have at most the {most:,} tokens that {config.model} reads"
        hint = "lower candidates, history_length, max_title_tokens or max_prompt_tokens"
        raise InputError([Fault(rule, field="max_prompt_tokens", value=needed, hint=hint)])


def _why_alone(config: TrialConfig, *, on_gpu: bool) -> str:
    from reranker.modeling.architecture_check import architecture_of
    from reranker.modeling.model_loading import describe

    described = describe(config.model)
    architecture = architecture_of(described)
    if architecture.shares_lists:
        return ""
    if not architecture.tried:
        return f"no miniature of its architecture, {described.model_type}, could be built to try shared ones"
    kinds = getattr(described.get_text_config(), "layer_types", None) or []
    if "linear_attention" not in kinds:
        return f"{described.model_type} has recurrent layers or attention of its own kind"
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
    config = config.model_copy(update=_AT_LONGEST)
    prompts = [encoder.encode_shared(examples) for examples in some.shared_examples(config, 0, together)[:_READ]]
    shared = sum(len(p.listed) + sum(len(question.input_ids) for question in p.questions) for p in prompts)
    return (sum(prompt.tokens for prompt in prompts) / shared, together) if prompts else None


def _shares_lists(study: Study, config: TrialConfig) -> bool:
    """A batch that the workers can't share evenly is for its trial to tell."""
    workers = study.resources.workers
    return config.effective_batch % workers == 0 and examples_of_a_list(config, workers) > 1
