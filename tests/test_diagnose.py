"""Broken trainings, real and small, each of which must yield its own finding; and a healthy one, which must yield none."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from reranker.candidates import Example
from reranker.config import DemoData, TrialConfig
from reranker.data import RerankingData
from reranker.sft import fine_tune
from results.diagnose import Evidence, diagnose
from results.study_folder import StoredTrial, TrialStatus

GOOD = TrialConfig(
    model="demo-tiny", epochs=3, learning_rate=3e-3, lora_rank=8, examples_per_user=3, history_length=6
)  # fmt: skip


@functools.cache
def prepared() -> RerankingData:
    return RerankingData.prepare(DemoData(users=600))


class _ShuffledTargets(RerankingData):
    """Training answers that are drawn at random."""

    def training_examples(self, config: TrialConfig, epoch: int) -> list[Example]:
        rng = np.random.default_rng(epoch)
        examples = super().training_examples(config, epoch)
        return [Example(e.user, e.history, e.candidates, int(rng.integers(len(e.candidates)))) for e in examples]


def trained(data: RerankingData | None = None, **knobs: Any) -> StoredTrial:
    """A real training of the good configuration with these knobs changed."""
    config, epochs = GOOD.model_copy(update=knobs), []
    fine_tune(config, data or prepared(), on_epoch=lambda report: epochs.append(report.figures) or True)
    return StoredTrial(0, config.model_dump(mode="json"), TrialStatus.COMPLETED, "", epochs)


def names(*trials: StoredTrial, **more: Any) -> list[str]:
    return [finding.name for finding in diagnose(Evidence(list(trials), users=600, candidates=20, **more))]


def test_what_users_come_with_is_at_chance_after_too_few_steps():
    rows = [
        {"recall_at_1": 0.0179, "ndcg_at_10": 0.0875, "train_loss": 4.25, "applied/optimizer_steps": 5},
        {"recall_at_1": 0.0212, "ndcg_at_10": 0.1019, "train_loss": 4.25, "applied/optimizer_steps": 5},
    ]
    first, second, *_ = diagnose(Evidence.of_table(rows, users=614, candidates=50))
    assert [first.name, second.name] == ["at chance", "too few steps"]
    assert "guessing gives 0.0200 ± 0.0111 with 614 users" in first.seen
    assert "4.25, is not below that of guessing, ln 50 = 3.91" in first.seen
    assert "5 optimiser steps" in second.seen


@pytest.fixture(scope="module")
def healthy() -> StoredTrial:
    return trained()


def test_a_healthy_training_yields_nothing(healthy):
    assert names(healthy) == []


def test_five_steps(healthy):
    data = RerankingData.prepare(DemoData(users=80))
    assert "too few steps" in names(trained(data, epochs=1, examples_per_user=1))[:2]


def test_a_rate_a_hundred_times_too_high():
    assert names(trained(learning_rate=0.3))[:2] == ["at chance", "rate too high"]


def test_a_rate_a_hundred_times_too_low():
    assert "rate too low" in names(trained(learning_rate=3e-6))[:2]


def test_shuffled_answers_are_chance_and_nothing_is_blamed_on_the_steps():
    data = prepared()
    shuffled = _ShuffledTargets(data.config, data.interactions, data.split, data.sampler)
    found = names(trained(shuffled, learning_rate=1e-2))
    assert found[0] == "at chance"
    assert "too few steps" not in found


def test_a_warm_up_that_never_ends():
    assert names(trained(warmup_epochs=30.0, learning_rate=2e-2))[0] == "applied is not configured"


def test_prompts_that_are_cut():
    assert "prompts are cut" in names(trained(max_prompt_tokens=88))


def test_a_baseline_that_is_not_beaten(healthy):
    assert names(healthy, unproven=["markov"]) == ["a simple baseline does as well"]


def test_the_best_value_at_the_end_of_its_range(healthy):
    assert names(healthy, edges={"lora_rank": 32}) == ["the best value is an end of its range"]


def test_failed_trials_are_told_with_their_causes(healthy):
    failed = StoredTrial(1, {}, TrialStatus.FAILED, "out of memory", [])
    (finding,) = diagnose(Evidence([healthy], 600, 20, failed=[failed]))
    assert (finding.name, finding.seen) == ("trials failed", "1 of 2: out of memory (1×)")


def test_learning_by_heart():
    data = RerankingData.prepare(DemoData(users=64))
    trial = trained(data, epochs=25, learning_rate=5e-3, lora_rank=32, examples_per_user=1, shuffle_candidates=False)
    evidence = Evidence([trial], users=64, candidates=20, metric="ndcg_at_10")
    assert "overfitting" in [finding.name for finding in diagnose(evidence)]
