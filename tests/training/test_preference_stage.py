"""Softmax-DPO in the last epochs: its formula, what it is held against, and a training that goes on within it."""

from __future__ import annotations

import math

import pytest
import torch

from reranker.config import NegativesMix, TrialConfig, build_trial_config
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.errors import InputError
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.model_loading import load_base
from reranker.training.preference_stage import Reference, softmax_dpo
from reranker.training.sft import fine_tune
from tests.trained import trains_the_same_after_a_break

EXCLUDED = -1e9
TWO_STAGES = TrialConfig(
    model="demo-tiny", epochs=2, dpo_epochs=1, effective_batch=16, lora_rank=4, learning_rate=1e-3, warmup_epochs=0
)


@pytest.fixture(scope="module")
def small() -> RerankingData:
    return RerankingData.prepare(DemoData(users=64))


def test_the_loss_is_that_of_the_paper_over_the_negatives():
    generator = torch.Generator().manual_seed(0)
    now, before = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    targets, beta, bias = torch.tensor([0, 1, 2, 3, 4, 0]), 0.7, torch.zeros(6, 5)
    bias[0, 3] = EXCLUDED
    expected = []
    for row, target in enumerate(targets.tolist()):
        gains = beta * (now[row].log_softmax(0) - before[row].log_softmax(0))
        negatives = [d for d in range(5) if d != target and bias[row, d] == 0]
        inner = math.log(sum(math.exp(gains[d] - gains[target]) for d in negatives))
        expected.append(-math.log(1 / (1 + math.exp(inner))))
    assert softmax_dpo(now, before, targets, beta, bias).item() == pytest.approx(sum(expected) / 6, abs=1e-12)


def test_where_nothing_was_learned_since_all_are_alike(small):
    reports = []
    config = TWO_STAGES.model_copy(update={"learning_rate": 1e-12, "list_sharing": 1})
    fine_tune(config, small, on_report=lambda report: reports.append(report.figures) or True)
    assert reports[1]["train_loss"] == pytest.approx(math.log(20), abs=1e-5)


def test_the_first_stage_is_as_without_a_second(small):
    def first(config: TrialConfig) -> dict[str, float]:
        reports = []
        fine_tune(config, small, on_report=lambda report: reports.append(report.figures) or False)
        return {name: reports[0][name] for name in ("train_loss", "val_loss", "ndcg_at_10")}

    assert first(TWO_STAGES) == first(TWO_STAGES.model_copy(update={"dpo_epochs": 0}))


def test_what_it_is_held_against_stays_as_it_was_and_leaves_the_model_as_it_is():
    model = attach_lora(load_base(TWO_STAGES, torch.device("cpu")), TWO_STAGES).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    reference = Reference.of(model)
    for parameter in trained.values():
        parameter.data += 1
    with reference.in_place(model):
        assert not model.training
        assert all(torch.equal(p, before[name]) for name, p in trained.items())
    assert model.training
    assert all(torch.equal(p, before[name] + 1) for name, p in trained.items())


@pytest.mark.slow
@pytest.mark.parametrize("sharing", [1, 4])
def test_a_training_that_goes_on_within_it_gives_exactly_what_one_without_a_break_gives(small, sharing, tmp_path):
    config = TWO_STAGES.model_copy(update={"epochs": 3, "dpo_epochs": 2, "list_sharing": sharing, "lora_dropout": 0.1})
    assert trains_the_same_after_a_break(config, small, tmp_path, after=2)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", [1, "auto"])
def test_a_model_goes_on_learning_by_it(sharing):
    data = RerankingData.prepare(DemoData(users=400))
    hard = NegativesMix(uniform=0.5, retriever=0.5)
    reports = []
    config = TWO_STAGES.model_copy(
        update={"epochs": 6, "dpo_epochs": 3, "list_sharing": sharing, "negatives": hard, "learning_rate": 3e-3}
    )
    fine_tune(config, data, on_report=lambda report: reports.append(report.figures) or True)
    assert reports[5]["ndcg_at_10"] > reports[2]["ndcg_at_10"] + 0.02


@pytest.mark.parametrize(
    ("knobs", "rule"),
    [
        ({"dpo_epochs": 2}, "dpo_epochs must be less than `epochs`"),
        ({"dpo_epochs": 1, "objective": "token_ce"}, "dpo_epochs must be 0 with objective: token_ce"),
        ({"dpo_epochs": 1, "teacher": "ease"}, "dpo_epochs must be 0 with a teacher"),
        ({"dpo_beta": 0.0}, "must be at least 0.01"),
    ],
)
def test_bounds(knobs, rule):
    with pytest.raises(InputError, match=rule):
        build_trial_config({"model": "demo-tiny", "epochs": 2, **knobs})
