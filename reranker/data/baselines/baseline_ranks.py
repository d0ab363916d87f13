"""Lists → ranks of their targets without a language model: what a tuned model must beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reranker.config import Baseline
from reranker.data.baselines.baseline_plan import NO_MODEL, TRAINED, BaselinePlan
from reranker.data.candidates.first_stage import recommender
from reranker.data.example import Evaluated
from reranker.data.interactions import Interactions, ItemCodes
from reranker.data.recommenders.linear_recommenders import MOST_ITEMS
from reranker.data.recommenders.ranked_lists import RankedLists
from reranker.data.recommenders.text_recommenders import has_words
from reranker.data.split import Split
from reranker.data_config import POINTWISE as EXAMPLE
from reranker.errors import Fault, InputError
from reranker.metrics import Ranks, ranks_of_target

RANDOM = "random"
COLLABORATIVE = "collaborative"  # see `reranker.data.recommenders.collaborative_scores`
POINTWISE = "pointwise"  # see `reranker.data.recommenders.pointwise_reranker`


@dataclass(frozen=True)
class Baselines:
    """What baselines are worth on some lists.

    Attributes:
        ranks: of each that was scored, and of `random`.
        figures: what else is known of one: of those that are trained `recipe`, `epochs`, `recipes_tried`, `seconds`, and
            whether they were `out_of_time`.
        left_out: why one was not scored, as a sentence.
    """

    ranks: dict[str, Ranks]
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def baseline_ranks(
    interactions: Interactions,
    split: Split,
    lists: RankedLists,
    part: Evaluated,
    plan: BaselinePlan | None = None,
    *,
    dense_model: str | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Baselines:
    """Ranks of the planned baselines on the same lists, each fitted on all users' interactions before the target's part.

    That is the training part for validation, and training and validation for test. `random` scores all items equally:
    the metrics of a full tie are the exact expectation over random orders. `collaborative` and `pointwise`, which score
    lists and no catalogue, are not scored here.

    Args:
        dense_model: the sentence encoder of `dense`.
        seed: of those that are trained.
        say: receives the progress of those that take long, a line at a time.

    Raises:
        InputError, EnvironmentFault: `dense` has no encoder, or it can't be loaded.
    """
    plan = plan or BaselinePlan()
    sequences, texts = split.before(part), interactions.item_texts
    baselines = Baselines({RANDOM: lists.ranks(lambda histories, candidates: np.zeros(candidates.shape))})
    for name in sorted(plan.names, key=lambda name: name in TRAINED):  # so that faults of the others come first
        if reason := _unfit(name, texts):
            baselines.left_out[name] = reason
        elif name in TRAINED:
            _train(name, sequences, len(texts), lists, plan, seed, baselines, say)
        elif name not in (COLLABORATIVE, POINTWISE):
            fitted = recommender(name, sequences, texts, dense_model, on_known=split.by_time)
            baselines.ranks[name] = lists.ranks(fitted.scores_of)
    return baselines


def ask_pointwise(
    baselines: Baselines,
    model: str | None,
    texts: Sequence[str],
    lists: RankedLists,
    behind: Sequence[int],
    plan: BaselinePlan,
    say: Callable[[str], None],
) -> None:
    """Add the ranks of `pointwise`, or why there are none.

    Args:
        model: that is asked of each item.
        texts: of the items.
        behind: for each list, the items that a target is behind which the list lacks.

    Raises:
        InputError, EnvironmentFault: there is no such model, or it can't be asked.
    """
    from reranker.data.recommenders.pointwise_reranker import PointwiseReranker, TooSlow  # torch takes seconds

    if model is None:
        raise InputError([Fault(NO_MODEL, field="data.pointwise_model", hint=f"such as {EXAMPLE}")])
    try:
        with closing(PointwiseReranker(model, texts)) as asked:
            scores = asked.scores(lists.histories, lists.candidates, 60 * plan.minutes, say)
    except TooSlow as reason:
        baselines.left_out[POINTWISE] = f"{reason}, and baseline_minutes is {plan.minutes:g}"
        return
    baselines.ranks[POINTWISE] = ranks_of_target(scores, lists.targets, behind)


def _unfit(name: str, texts: Sequence[str]) -> str:
    """Why a baseline can't be scored on this catalogue; empty if it can."""
    if len(texts) > (most := MOST_ITEMS.get(name, len(texts))):
        return (
            f"it inverts a matrix of items by items, so that it takes {most:,} items at most; there are {len(texts):,}"
        )
    if name == "bm25" and not has_words(texts):
        return "no item text has a word"
    return ""


def _train(
    name: Baseline,
    sequences: Sequence[ItemCodes],
    items: int,
    lists: RankedLists,
    plan: BaselinePlan,
    seed: int,
    baselines: Baselines,
    say: Callable[[str], None],
) -> None:
    from reranker.data.recommenders.sequence_models import tuning  # torch takes seconds

    if name in plan.tuned:
        baselines.ranks[name] = lists.ranks(tuning.retrained(plan.tuned[name], sequences, items, seed).scores_of)
        return
    try:
        search = tuning.RecipeSearch(sequences, items, lists, plan.metric, 60 * plan.minutes, seed, say)
        tuned = search.best(name)
    except tuning.Untrainable as reason:
        baselines.left_out[name] = str(reason)
        return
    baselines.ranks[name], baselines.figures[name] = tuned.ranks, tuned.figures
