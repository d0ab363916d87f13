"""A base model and its lists → its answers without any training, as they are and, where there are labels, with their prior
divided out."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import Example
from reranker.evaluation.evaluate import Evaluation, evaluate, items_behind
from reranker.evaluation.scoring import EncodedLists, FloatArray, Progress, inspect
from reranker.evaluation.title_probe import named_titles, own_probes, title_probes
from reranker.modeling.device import best_device
from reranker.modeling.model_cache import BaseModels
from reranker.modeling.process_group import gathered, of_all, of_first, worker_rank, workers
from reranker.prompting.pointwise_prompts import encoder_of
from reranker.storage.atomic_files import writing
from reranker.storage.file_permissions import make_folder

_PRIOR_LISTS = 200


@dataclass(frozen=True)
class ZeroShot:
    """An untrained base's results on some lists.

    Attributes:
        plain: as they are.
        without_prior: with the label prior divided out; None pointwise, where there are no labels.
        figures: those of `reranker.evaluation.title_probe`, `label_mass`, `seconds_per_list`, and with labels
            `label_prior`, the share of each.
    """

    plain: Evaluation
    without_prior: Evaluation | None
    figures: dict[str, Any]


def zero_shot(
    config: TrialConfig,
    data: RerankingData,
    examples: Sequence[Example],
    bases: BaseModels,
    on_progress: Progress = lambda share: None,
) -> ZeroShot:
    """Score the lists with the base, without an adapter, over all workers."""
    device = best_device()
    encoder = encoder_of(bases.catalogue(config, data), config)
    lists = EncodedLists.of(encoder, _share(examples))
    probes = own_probes(title_probes(encoder.catalogue, config, examples))
    reordered = _in_drawn_orders(examples) if config.scoring == "listwise" else []
    first_part = len(examples) / (len(examples) + len(reordered))
    prior = None
    with bases.base(config, device) as base:
        model = base.to(device)
        began = time.perf_counter()
        scored = inspect(model, lists, probes, lambda share: on_progress(first_part * share))
        seconds = time.perf_counter() - began
        if reordered:
            others = EncodedLists.of(encoder, _share(reordered))
            rest = inspect(model, others, (), lambda share: on_progress(first_part + (1 - first_part) * share))
            prior = gathered(rest.scores, len(reordered)).mean(axis=0)
    targets, scores = np.array([e.target for e in examples]), gathered(scored.scores, len(examples))
    figures = {
        **named_titles(scored),
        "label_mass": sum(of_all(float(scored.mass.sum()))) / len(examples),
        "seconds_per_list": max(of_all(seconds / max(1, len(scored.scores)))),
    }
    behind = items_behind(examples)
    plain = evaluate(scores, targets, behind=behind)
    if prior is None:
        return ZeroShot(plain, None, figures)
    return ZeroShot(plain, evaluate(scores - prior, targets, behind=behind), {**figures, "label_prior": _shares(prior)})


def keep_zero_shot(
    config: TrialConfig,
    data: RerankingData,
    bases: BaseModels,
    plain: TrialFolder,
    without_prior: TrialFolder,
    on_progress: Progress = lambda share: None,
) -> None:
    """Score the validation lists and keep both baselines, or the one that there is, unless they exist or other workers are
    making them."""
    is_first = worker_rank() == 0
    with contextlib.ExitStack() as stack:
        is_our_turn = True
        if is_first:
            with writing(plain.path):
                make_folder(plain.path)
                if config.scoring == "listwise":
                    make_folder(without_prior.path)
            try:
                stack.enter_context(FileLock(plain.path / "lock", timeout=0))
                is_our_turn = not plain.has_ranks
            except Timeout:
                is_our_turn = False
        if not of_first(is_our_turn):
            return
        examples = data.validation(config)
        results = zero_shot(config, data, examples, bases, on_progress)
        users = [data.interactions.user_ids[e.user] for e in examples]
        if is_first:  # plain last: its ranks show that both are complete
            for folder, evaluation in ((without_prior, results.without_prior), (plain, results.plain)):
                if evaluation is None:
                    continue
                folder.write_figures({**evaluation.figures, **results.figures})
                folder.keep_ranks(users, evaluation.ranks, evaluation.picks)


def _share(examples: Sequence[Example]) -> Sequence[Example]:
    """This worker's share of the examples."""
    return examples[worker_rank() :: workers()]


def _in_drawn_orders(examples: Sequence[Example]) -> list[Example]:
    """Some of the lists, each in an order that reveals nothing about its target.

    The mean log-probability of each label over such lists is the label's prior. Source: PriDe in Zheng et al., Large
    Language Models Are Not Robust Multiple Choice Selectors, ICLR 2024, with random instead of cyclic orders.
    """
    rng = random.Random(0)
    chosen = rng.sample(examples, min(_PRIOR_LISTS, len(examples)))
    return [replace(e, candidates=tuple(rng.sample(e.candidates, len(e.candidates))), target=0) for e in chosen]


def _shares(prior: FloatArray) -> list[float]:
    shares = np.exp(prior - prior.max())
    return [float(share) for share in shares / shares.sum()]
