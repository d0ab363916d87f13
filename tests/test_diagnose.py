"""A gallery of studies, each broken in its own way, which must yield its own finding first; and healthy ones: nothing.

Every study is really trained, small, and diagnosed out of its folder, the statistics of `results.compare` included.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gallery
import pytest
from gallery import GOOD, broken, build, demo

from results.diagnose import Evidence, diagnose
from results.study_folder import StudyFolder

SEEDS_NUMBERS = "recall_at_1,ndcg_at_10,train_loss,optimizer_steps\n0.0179,0.0875,4.25,5\n0.0212,0.1019,4.25,5\n"


def good(**knobs: Any) -> Any:
    return GOOD.model_copy(update=knobs)


def of_rank(rank: int) -> Any:
    return good(lora_rank=rank, lora_alpha=2 * rank, epochs=1, learning_rate=1.5e-3)


def in_another_template(runs: Path) -> StudyFolder:
    with gallery.scored_in_another_template():
        return build(runs, "template", demo(), [good()])


def names(study: StudyFolder) -> list[str]:
    return [finding.name for finding in diagnose(Evidence.of_study(study))]


GALLERY: dict[str, tuple[Callable[[Path], StudyFolder], list[str]]] = {
    "a rate a hundred times too high": (
        lambda runs: build(runs, "high", demo(), [good(epochs=1, learning_rate=0.3)]),
        ["at chance", "rate too high"],
    ),
    "a rate a hundred times too low": (
        lambda runs: build(runs, "low", demo(), [good(epochs=1, learning_rate=3e-5)]),
        ["rate too low"],
    ),
    "five steps": (
        lambda runs: build(runs, "five", demo(80), [good(epochs=1, examples_per_user=1)]),
        ["too few steps"],
    ),
    "shuffled labels": (
        lambda runs: build(runs, "shuffled", broken(gallery.Shuffled, demo()), [good()]),
        ["at chance", "labels don't fit their lists"],
    ),
    "a target that stands in its history": (
        lambda runs: build(runs, "leaked", broken(gallery.Leaked, demo()), [good(epochs=1)]),
        ["leaked target"],
    ),
    "a target that stands in its history, in training": (
        lambda runs: build(runs, "leaked", broken(gallery.LeakedInTraining, demo()), [good(epochs=1)]),
        ["leaked in training"],
    ),
    "training answers that stand first": (
        lambda runs: build(runs, "prior", broken(gallery.FirstIsRight, demo()), [good()]),
        ["label prior"],
    ),
    "a history that is cut to nothing": (
        lambda runs: build(runs, "cut", demo(), [good(max_prompt_tokens=54)]),
        ["history is cut"],
    ),
    "another template for scoring": (in_another_template, ["at chance", "template mismatch"]),
    "what is popular is all that counts": (
        lambda runs: build(runs, "crowd", gallery.taste_of_the_crowd(runs, 300, 0), [good()]),
        ["a simple baseline does as well"],
    ),
    "a retriever that finds one target of three": (
        lambda runs: build(runs, "ceiling", broken(gallery.OneOfThreeFound, demo()), [good()]),
        ["the retriever is the ceiling"],
    ),
    "the highest rank is the best": (
        lambda runs: build(
            runs, "edge", demo(), [of_rank(r) for r in (1, 4, 16, 64)], {"lora_rank": {"choice": [1, 4, 16, 64]}}
        ),
        ["the best is at an end of its range"],
    ),
    "forty users": (
        lambda runs: build(runs, "small", demo(evaluation_users=40), [good(epochs=5)]),
        ["too few users"],
    ),
    "learning by heart": (
        lambda runs: build(
            runs, "heart", demo(64),
            [good(epochs=25, learning_rate=5e-3, lora_rank=32, examples_per_user=1, shuffle_candidates=False)],
        ),
        ["overfitting"],
    ),
    "a warm-up that never ends": (
        lambda runs: build(runs, "warm-up", demo(), [good(epochs=1, warmup_epochs=30.0, learning_rate=2e-2)]),
        ["applied is not configured"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GALLERY)
def test_a_broken_study_yields_its_finding_first(case, tmp_path):
    make, expected = GALLERY[case]
    study = make(tmp_path)
    assert names(study)[: len(expected)] == expected
