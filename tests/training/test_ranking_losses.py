"""The losses by order, held against their formulas pair by pair in fp64, and trained with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.training.ranking_losses import RANKING_LOSSES, lambdaloss, ranknet
from reranker.training.sft import fine_tune

EXCLUDED = -1e9


def some(lists: int = 12, candidates: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(lists, candidates, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, candidates, (lists,), generator=generator)


def ranknet_by_pair(row: list[float], target: int) -> float:
    pairs = [math.log(1 + math.exp(other - row[target])) for i, other in enumerate(row) if i != target]
    return sum(pairs) / len(pairs)


def lambdaloss_by_pair(row: list[float], target: int) -> float:
    rank = {i: place for place, i in enumerate(sorted(range(len(row)), key=lambda i: -row[i]), start=1)}

    def discount(place: int) -> float:
        return math.log2(1 + place)

    total = 0.0
    for other in set(range(len(row))) - {target}:
        apart = abs(rank[target] - rank[other])
        rho = abs(1 / discount(rank[target]) - 1 / discount(rank[other]))
        delta = abs(1 / discount(apart) - 1 / discount(apart + 1))
        total += (rho + 10 * delta) * math.log2(1 + math.exp(row[other] - row[target]))
    return total


@pytest.mark.parametrize(("loss", "by_pair"), [(ranknet, ranknet_by_pair), (lambdaloss, lambdaloss_by_pair)])
def test_a_loss_is_the_sum_of_its_pairs(loss, by_pair):
    logits, targets = some()
    expected = [by_pair(row, target) for row, target in zip(logits.tolist(), targets.tolist(), strict=True)]
    assert loss(logits, targets).tolist() == pytest.approx(expected, abs=1e-9)
    assert loss(logits.float(), targets).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", RANKING_LOSSES)
def test_the_gradient_is_that_of_the_formula_with_the_ranks_held(name):
    logits, targets = some(lists=4)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: RANKING_LOSSES[name](x, targets), logits, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", RANKING_LOSSES)
def test_excluded_candidates_have_no_part_in_it(name):
    logits, targets = some(lists=6, candidates=5)
    longer = torch.cat([logits, logits.new_full((6, 3), EXCLUDED)], dim=1).requires_grad_()
    found = RANKING_LOSSES[name](longer, targets)
    scale = 7 / 4 if name == "ranknet" else 1  # a mean over seven others, of which three are none
    assert (scale * found).tolist() == pytest.approx(RANKING_LOSSES[name](logits, targets).tolist(), abs=1e-12)
    found.sum().backward()
    assert longer.grad is not None
    assert longer.grad[:, 5:].abs().max() == 0
    assert longer.grad[:, :5].abs().min() > 0


@pytest.mark.parametrize("name", RANKING_LOSSES)
@pytest.mark.parametrize(
    "logits", [torch.zeros(3, 4), 1e4 * torch.eye(3, 4), -1e4 * torch.eye(3, 4), torch.zeros(3, 1)]
)
def test_ties_extremes_and_lists_of_one_have_finite_gradients(name, logits):
    logits = logits.clone().requires_grad_()
    loss = RANKING_LOSSES[name](logits, torch.zeros(3, dtype=torch.int64))
    loss.sum().backward()
    assert logits.grad is not None
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()


def test_a_mistake_at_the_top_weighs_more_for_lambdaloss_alone():
    logits = torch.tensor(
        [[0.0, 1.0, -1.0, -2.0], [0.0, 3.0, 2.0, 1.0]], requires_grad=True
    )  # true item second, fourth
    targets = torch.zeros(2, dtype=torch.int64)
    pushes = {}
    for name, loss in RANKING_LOSSES.items():
        (gradient,) = torch.autograd.grad(loss(logits, targets).sum(), logits)
        pushes[name] = gradient[1, 3] / gradient[1, 1]  # of the neighbour above, beside the first
    assert pushes["ranknet"] < 1 < pushes["lambdaloss"]


@pytest.mark.slow
@pytest.mark.parametrize("objective", RANKING_LOSSES)
@pytest.mark.parametrize("sharing", [1, 8])
def test_a_model_learns_by_it(objective, sharing):
    data = RerankingData.prepare(DemoData(users=300))
    config = TrialConfig(
        model="demo-tiny", epochs=3, learning_rate=2e-3, objective=objective, list_sharing=sharing, effective_batch=16
    )
    reports: list[dict[str, float]] = []
    fine_tune(config, data, on_report=lambda report: reports.append(report.figures) or True)
    losses = [report["train_loss"] for report in reports]
    assert losses[0] > losses[1] > losses[2]
    assert reports[-1]["recall_at_1"] > 0.15
