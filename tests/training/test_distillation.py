"""A teacher's part of the loss: the divergence by its formula, mixed as the knobs say, the same in shared lists."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import NOBODY, Example
from reranker.data_config import DemoData
from reranker.modeling.model_cache import BaseModels
from reranker.prompting.forward_passes import Limits, Pass, plain_passes, shared_passes
from reranker.prompting.prompts import PromptEncoder
from reranker.training.distillation import divergence, is_taught
from reranker.training.loss import Objective
from reranker.training.sft import fine_tune

CONFIG = TrialConfig(
    model="demo-tiny", epochs=3, learning_rate=2e-3, effective_batch=16, teacher="ease", teacher_weight=0.7
)
NONE = -math.inf


@pytest.fixture(scope="module")
def small() -> RerankingData:
    return RerankingData.prepare(DemoData(users=64))


def by_candidate(logits: list[float], teacher: list[float]) -> float:
    known = [i for i, share in enumerate(teacher) if share > NONE]
    total = math.log(sum(math.exp(logits[i]) for i in known)) if known else 0.0
    return sum(math.exp(teacher[i]) * (teacher[i] - (logits[i] - total)) for i in known)


def test_the_divergence_is_that_of_the_formula_over_what_the_teacher_scored():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(7, 5, generator=generator, dtype=torch.float64)
    teacher = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    teacher[1, 2:] = NONE
    teacher[2, 0] = NONE
    teacher[6, :4] = NONE  # of one candidate alone there is nothing to learn
    teacher = teacher.log_softmax(dim=1)
    teacher[3] = NONE
    logits[4, 1] = -1e9
    teacher[4, 1] = NONE
    teacher[4] = teacher[4].log_softmax(dim=0)
    logits.requires_grad_()
    found = divergence(logits, teacher)
    expected = [by_candidate(*rows) for rows in zip(logits.tolist(), teacher.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert is_taught(teacher).tolist() == [True, True, True, False, True, True, False]
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[[3, 6]].abs().max() == 0
    assert logits.grad[1, 2:].abs().max() == 0
    difference = torch.where(teacher.isfinite(), logits.log_softmax(dim=1).exp() - teacher.exp(), 0.0)[[0, 5]]
    assert torch.allclose(logits.grad[[0, 5]], difference, atol=1e-12), "shares of the model less those of the teacher"


def test_it_is_zero_where_both_say_the_same_and_never_below():
    logits = torch.randn(50, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert divergence(logits, (logits + 3).log_softmax(dim=1)).abs().max() < 1e-12
    assert divergence(logits, torch.roll(logits, 1, 0).log_softmax(dim=1)).min() > 0


def passes(data: RerankingData, config: TrialConfig, group: list[Example], correction: np.ndarray) -> list[Pass]:
    encoder = PromptEncoder(BaseModels().catalogue(config, data), config)
    plain = plain_passes(encoder, group, encoder.encode(group), Limits(None, None))
    shared = shared_passes(encoder, [group], [encoder.encode_shared(group)], Limits(None, None), correction)
    return [*plain, *shared]


def test_in_a_shared_list_the_teacher_is_corrected_and_loses_what_is_no_negative(small):
    group = list(small.shared_examples(CONFIG, 0, 8)[0])
    group.append(Example(NOBODY, (group[0].candidates[3],), group[0].candidates, 3))
    correction = np.linspace(-1, 1, len(small.interactions.item_texts), dtype=np.float32)
    config = CONFIG.model_copy(update={"teacher_temperature": 2.0})
    plain, shared = (batch["teacher"] for batch in passes(small, config, group, correction))
    assert not is_taught(plain)[-1]
    assert not is_taught(shared)[-1]
    for example, row, of_list in zip(group[:-1], plain, shared, strict=False):
        scores = torch.tensor(example.teacher) / 2
        allowed = torch.ones(20, dtype=torch.bool)
        allowed[list(example.excluded)] = False
        scores[~allowed] = NONE
        assert torch.allclose(row, scores.log_softmax(dim=0), atol=1e-6)
        corrected = scores + torch.tensor(correction[list(example.candidates)])
        assert torch.allclose(of_list, corrected.log_softmax(dim=0), atol=1e-6)
    assert any(example.excluded for group in small.shared_examples(CONFIG, 0, 8) for example in group)


@pytest.mark.parametrize("objective", ["label_ce", "ranknet"])
def test_the_loss_is_mixed_by_weight_and_examples_without_a_teacher_have_their_own_alone(small, objective):
    from reranker.training.ranking_losses import ranknet

    config = CONFIG.model_copy(update={"objective": objective})
    encoder = PromptEncoder(BaseModels().catalogue(config, small), config)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 1, 20, generator=generator)
    targets, teacher = torch.tensor([4, 0, 19]), torch.randn(3, 20, generator=generator).log_softmax(dim=1)
    teacher[1] = NONE
    own = ranknet(logits[:, 0], F.one_hot(targets, logits.shape[-1]).float())
    if objective == "label_ce":
        own = F.cross_entropy(logits[:, 0], targets, reduction="none")
    expected = [0.3 * own[i] + 0.7 * divergence(logits[:, 0], teacher)[i] if i != 1 else own[1] for i in range(3)]
    loss = Objective(encoder, torch.device("cpu")).loss(logits, targets, teacher)
    assert float(loss) == pytest.approx(float(sum(expected)) / 3, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", [1, 8])
def test_the_training_loss_is_that_of_the_formula(small, sharing):
    knobs = {"epochs": 1, "learning_rate": 1e-12, "list_sharing": sharing, "collaborative_scores": "counts"}
    config = CONFIG.model_copy(update=knobs)
    encoder = PromptEncoder(BaseModels().catalogue(config, small), config)
    objective, losses = Objective(encoder, torch.device("cpu")), []
    correction = small.list_correction(config, 8) if sharing > 1 else np.zeros(len(encoder.catalogue.texts))
    lists = small.shared_examples(config, 0, 8) if sharing > 1 else [small.training_examples(config, 0)]
    with BaseModels().base(config, torch.device("cpu")) as base, torch.no_grad():
        for example, prompt in ((e, p) for group in lists for e, p in zip(group, encoder.encode(group), strict=True)):
            logits = base(torch.tensor([prompt.input_ids])).logits[:, -1, list(encoder.label_ids)].float()
            of_list = torch.tensor(correction[list(example.candidates)], dtype=torch.float32)
            told = torch.tensor(example.teacher) + of_list
            logits = logits + torch.tensor(example.collaborative) + of_list
            logits[0, list(example.excluded)], told[list(example.excluded)] = -1e9, NONE
            target = torch.tensor([example.target])
            losses.append(objective.loss(logits[:, None], target, told.log_softmax(dim=0)[None]).item())
    assert fine_tune(config, small).figures["train_loss"] == pytest.approx(np.mean(losses), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["ease", "collaborative"])
def test_a_model_comes_nearer_to_its_teacher_alone(small, teacher):
    sure = {"teacher_weight": 1.0, "teacher_temperature": 0.3, "examples_per_user": None}
    config = CONFIG.model_copy(update={"teacher": teacher, "learning_rate": 5e-3, **sure})
    losses: list[float] = []
    fine_tune(config, small, on_report=lambda report: losses.append(report.figures["train_loss"]) or True)
    assert losses[0] > losses[1] > losses[2] > 0


@pytest.mark.slow
def test_smaller_passes_take_the_same_steps(small):
    whole, parts = (
        fine_tune(CONFIG.model_copy(update={"epochs": 1, "micro_batch": size}), small).figures for size in (None, 3)
    )
    assert parts["val_loss"] == pytest.approx(whole["val_loss"], abs=1e-4)
    assert parts["train_loss"] == pytest.approx(whole["train_loss"], abs=1e-5)
