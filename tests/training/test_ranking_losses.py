"""The losses by order, held against their formulas pair by pair in fp64, and trained with."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.training.ranking_losses import RANKING_LOSSES, lambdaloss, listnet, ranknet
from reranker.training.sft import fine_tune

EXCLUDED = -1e9


def some(lists: int = 12, candidates: int = 9, right: int = 1) -> tuple[Tensor, Tensor]:
    """Logits, and a relevance of 1, 1/2 … for so many random candidates of each list."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(lists, candidates, generator=generator, dtype=torch.float64)
    places = torch.rand(lists, candidates, generator=generator).argsort(dim=1)[:, :right]
    worths = (0.5 ** torch.arange(right)).expand(lists, -1)
    return logits, torch.zeros(lists, candidates).scatter(1, places, worths)


def pairs(relevance: list[float]) -> list[tuple[int, int]]:
    count = range(len(relevance))
    return [(i, j) for i in count for j in count if relevance[i] > relevance[j]]


def listnet_by_hand(row: list[float], relevance: list[float]) -> float:
    whole = sum(math.exp(x) for x in row)
    return -sum(r / sum(relevance) * math.log(math.exp(x) / whole) for x, r in zip(row, relevance, strict=True))


def ranknet_by_pair(row: list[float], relevance: list[float]) -> float:
    losses = [math.log(1 + math.exp(row[j] - row[i])) for i, j in pairs(relevance)]
    return sum(losses) / len(losses)


def lambdaloss_by_pair(row: list[float], relevance: list[float]) -> float:
    rank = {i: place for place, i in enumerate(sorted(range(len(row)), key=lambda i: -row[i]), start=1)}

    def discount(place: int) -> float:
        return math.log2(1 + place)

    best = sum(worth / discount(place) for place, worth in enumerate(sorted(relevance, reverse=True), start=1))
    total = 0.0
    for i, j in pairs(relevance):
        apart = abs(rank[i] - rank[j])
        rho = abs(1 / discount(rank[i]) - 1 / discount(rank[j]))
        delta = abs(1 / discount(apart) - 1 / discount(apart + 1))
        gain = (relevance[i] - relevance[j]) / best
        total += (rho + 10 * delta) * gain * math.log2(1 + math.exp(row[j] - row[i]))
    return total


BY_HAND = {listnet: listnet_by_hand, ranknet: ranknet_by_pair, lambdaloss: lambdaloss_by_pair}


@pytest.mark.parametrize("right", [1, 2, 4])
@pytest.mark.parametrize("loss", BY_HAND)
def test_a_loss_is_that_of_its_formula(loss, right):
    logits, relevance = some(right=right)
    expected = [BY_HAND[loss](*pair) for pair in zip(logits.tolist(), relevance.tolist(), strict=True)]
    assert loss(logits, relevance).tolist() == pytest.approx(expected, abs=1e-6)
    assert loss(logits.float(), relevance).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("loss", BY_HAND)
def test_lists_may_have_different_numbers_of_right_items(loss):
    logits, relevance = some(lists=4, right=3)
    relevance[0, relevance[0] < 1] = 0
    expected = [BY_HAND[loss](*pair) for pair in zip(logits.tolist(), relevance.tolist(), strict=True)]
    assert loss(logits, relevance).tolist() == pytest.approx(expected, abs=1e-6)


def test_with_one_right_item_listnet_is_the_softmax_over_the_labels():
    logits, relevance = some()
    expected = F.cross_entropy(logits, relevance.argmax(dim=1), reduction="none")
    assert listnet(logits, relevance).tolist() == pytest.approx(expected.tolist(), abs=1e-12)


@pytest.mark.parametrize("right", [1, 3])
@pytest.mark.parametrize("name", RANKING_LOSSES)
def test_the_gradient_is_that_of_the_formula_with_the_ranks_held(name, right):
    logits, relevance = some(lists=4, right=right)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: RANKING_LOSSES[name](x, relevance), logits, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", RANKING_LOSSES)
def test_excluded_candidates_have_no_part_in_it(name):
    logits, relevance = some(lists=6, candidates=5)
    longer = torch.cat([logits, logits.new_full((6, 3), EXCLUDED)], dim=1).requires_grad_()
    found = RANKING_LOSSES[name](longer, F.pad(relevance, (0, 3)))
    scale = 7 / 4 if name == "ranknet" else 1  # a mean over seven others, of which three are none
    assert (scale * found).tolist() == pytest.approx(RANKING_LOSSES[name](logits, relevance).tolist(), abs=1e-12)
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
    loss = RANKING_LOSSES[name](logits, torch.eye(logits.shape[1])[torch.zeros(3, dtype=torch.int64)])
    loss.sum().backward()
    assert logits.grad is not None
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()


def test_a_mistake_at_the_top_weighs_more_for_lambdaloss_alone():
    logits = torch.tensor(
        [[0.0, 1.0, -1.0, -2.0], [0.0, 3.0, 2.0, 1.0]], requires_grad=True
    )  # true item second, fourth
    relevance = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0]])
    pushes = {}
    for name, loss in RANKING_LOSSES.items():
        (gradient,) = torch.autograd.grad(loss(logits, relevance).sum(), logits)
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
