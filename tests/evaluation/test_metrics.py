import itertools
import math

import numpy as np
import pytest

from reranker.metrics import (
    METRIC_NAMES,
    Ranks,
    chance,
    mrr_at_k,
    ndcg_at_k,
    per_list,
    picks,
    ranks_of_target,
    recall_at_k,
    summarise,
)


def ranks(greater: list[int], ties: list[int]) -> Ranks:
    return Ranks(np.array(greater), np.array(ties))


def test_names_are_the_contract():
    names = ("recall_at_1", "recall_at_5", "recall_at_10", "ndcg_at_5", "ndcg_at_10", "mrr_at_10")
    assert names == METRIC_NAMES
    assert tuple(summarise(ranks([0], [0]))) == names


def test_rank_counts_greater_and_ties():
    found = ranks_of_target([[3.0, 1.0, 2.0, 2.0], [5.0, 5.0, 5.0, 0.0]], [2, 0])
    assert found.greater.tolist() == [1, 0]
    assert found.ties.tolist() == [1, 2]
    assert found.expected.tolist() == [2.5, 2.0]


def test_metrics_without_ties():
    at = ranks([0, 1, 4, 5, 9, 10], [0] * 6)
    assert recall_at_k(at, 1).tolist() == [1, 0, 0, 0, 0, 0]
    assert recall_at_k(at, 5).tolist() == [1, 1, 1, 0, 0, 0]
    assert mrr_at_k(at, 10) == pytest.approx([1, 1 / 2, 1 / 5, 1 / 6, 1 / 10, 0])
    assert ndcg_at_k(at, 5) == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(6), 0, 0, 0])
    assert ndcg_at_k(at, 10)[4] == pytest.approx(1 / math.log2(11))


@pytest.mark.parametrize("n", [2, 7, 20, 50, 100])
def test_a_constant_scorer_gets_chance(n):
    scores = np.zeros((3, n), dtype=np.float32)
    got = summarise(ranks_of_target(scores, [0, n // 2, n - 1]))
    cut = min(10, n)
    assert got == pytest.approx(chance(n), abs=1e-15)
    assert got["recall_at_1"] == pytest.approx(1 / n, abs=1e-15)
    assert got["recall_at_10"] == pytest.approx(cut / n, abs=1e-15)
    assert got["ndcg_at_10"] == pytest.approx(sum(1 / math.log2(r + 1) for r in range(1, cut + 1)) / n, abs=1e-15)
    assert got["mrr_at_10"] == pytest.approx(sum(1 / r for r in range(1, cut + 1)) / n, abs=1e-15)


def test_chance_at_50_is_the_published_figure():
    assert {name: round(value, 4) for name, value in chance(50).items()} == {
        "recall_at_1": 0.02,
        "recall_at_5": 0.1,
        "recall_at_10": 0.2,
        "ndcg_at_5": 0.059,
        "ndcg_at_10": 0.0909,
        "mrr_at_10": 0.0586,
    }
    assert chance(20)["ndcg_at_10"] == pytest.approx(0.2272, abs=5e-5)
    assert chance(5)["recall_at_10"] == 1


def test_ties_are_the_mean_over_all_orders():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(0, 3, 6).astype(np.float32)
        target = int(rng.integers(6))
        at = []
        for order in itertools.permutations(range(6)):
            listed = sorted(order, key=lambda i: -scores[i])  # stable: the permutation decides among ties
            at.append(listed.index(target))
        every_order = per_list(ranks(at, [0] * len(at)))
        found = ranks_of_target(scores[None], [target])
        for name, values in per_list(found).items():
            assert values[0] == pytest.approx(every_order[name].mean()), name
        assert found.expected[0] == pytest.approx(np.mean(at) + 1)


def test_nan_never_wins():
    nan = np.nan
    found = ranks_of_target(
        [[nan, 0.0, -np.inf], [nan, nan, nan], [nan, -np.inf, nan], [np.inf, np.inf, nan]], [0, 0, 1, 0]
    )
    assert found.greater.tolist() == [2, 2, 0, 0]
    assert found.ties.tolist() == [0, 0, 0, 1]


def test_precision_of_the_scores_is_kept():
    close = np.array([[20.0, 20.0 + 4e-6]], dtype=np.float32)  # one value in bfloat16
    assert ranks_of_target(close, [0]).greater.tolist() == [1]


@pytest.mark.parametrize(("shape", "targets"), [((2, 3), [0]), ((6,), [0]), ((2, 3), [0, 3]), ((2, 3), [-2, 0])])
def test_misfitting_shapes_are_refused(shape, targets):
    with pytest.raises(ValueError, match="targets"):
        ranks_of_target(np.zeros(shape), targets)


def test_no_lists_are_refused():
    with pytest.raises(ValueError, match="at least one list"):
        summarise(ranks([], []))


def test_a_target_that_is_not_listed_is_a_miss_at_every_cut():
    ranks = ranks_of_target([[3.0, 1.0], [3.0, 1.0]], [-1, 0])
    assert ranks.found.tolist() == [False, True]
    assert recall_at_k(ranks, 10).tolist() == [0, 1]
    assert ndcg_at_k(ranks, 10).tolist() == [0, 1]
    assert mrr_at_k(ranks, 10).tolist() == [0, 1]


def test_picks_say_what_stands_first_and_how_sure_it_is():
    found = picks(np.log([[0.2, 0.7, 0.1], [0.4, 0.4, 0.2]]), [0, -1])
    assert found.target.tolist() == [0, -1]
    assert found.first.tolist() == [1, 0]
    assert found.probability.tolist() == pytest.approx([0.7, 0.4])


def test_a_candidate_scored_nan_never_stands_first():
    with np.errstate(all="raise"):
        found = picks(
            [[np.nan, np.log(0.25), np.log(0.75)], [-1.0, np.nan, np.nan], [np.nan, np.nan, np.nan]], [0, 0, 0]
        )
    assert found.first.tolist() == [2, 0, 0]
    assert found.probability.tolist() == pytest.approx([0.75, 1.0, 1 / 3])
