"""What a model sees of histories in training when a part of each is left out."""

from __future__ import annotations

import numpy as np
import pytest

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.candidates.history_dropout import without_some_history
from reranker.data.example import Example
from reranker.data_config import DemoData

LONG = [Example(user, tuple(range(100, 200)), (1, 2, 3), 1) for user in range(200)]


@pytest.fixture(scope="module")
def demo() -> RerankingData:
    return RerankingData.prepare(DemoData(users=200, interactions_per_user=10)).sealed()


def is_part(some: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    rest = iter(whole)
    return all(item in rest for item in some)


def test_the_share_is_left_out_and_the_order_kept():
    dropped = without_some_history(LONG, 0.3, seed=0, epoch=0)
    kept = np.array([len(example.history) for example in dropped])
    assert kept.mean() == pytest.approx(70, abs=1)
    assert kept.std() == pytest.approx(np.sqrt(100 * 0.3 * 0.7), rel=0.2)
    assert all(is_part(example.history, LONG[0].history) for example in dropped)


def test_each_epoch_each_user_and_each_seed_has_a_part_of_its_own():
    first = without_some_history(LONG, 0.5, seed=0, epoch=0)
    assert without_some_history(LONG, 0.5, seed=0, epoch=0) == first
    for other in (without_some_history(LONG, 0.5, 0, 1), without_some_history(LONG, 0.5, 1, 0)):
        assert all(a.history != b.history for a, b in zip(first, other, strict=True))
    assert len({example.history for example in first}) == len(LONG)


def test_what_is_left_out_does_not_depend_on_the_other_examples():
    assert without_some_history(LONG[7:8], 0.5, 0, 0) == without_some_history(LONG, 0.5, 0, 0)[7:8]


def test_the_last_item_stays_where_nothing_else_would():
    short = [Example(user, (5, 6), (1, 2), 0) for user in range(300)]
    histories = [example.history for example in without_some_history(short, 0.9, 0, 0)]
    assert set(histories) == {(6,), (5,), (5, 6)}
    assert histories.count((6,)) > 250


def test_no_examples_are_none():
    assert without_some_history([], 0.5, 0, 0) == []


@pytest.mark.parametrize("together", [1, 4])
def test_training_lists_differ_by_their_histories_alone_and_validation_lists_not_at_all(demo, together):
    whole = TrialConfig(model="demo-tiny", collaborative_scores="counts", teacher="item_knn")
    part = whole.model_copy(update={"history_dropout": 0.5})
    if together == 1:
        before, after = ([[e] for e in demo.training_examples(config, 0)] for config in (whole, part))
    else:
        before, after = (demo.shared_examples(config, 0, together) for config in (whole, part))
    pairs = [pair for lists in zip(before, after, strict=True) for pair in zip(*lists, strict=True)]
    for one, other in pairs:
        assert {**vars(one), "history": 0} == {**vars(other), "history": 0}
        assert is_part(other.history, one.history)
    assert sum(one.history != other.history for one, other in pairs) > len(pairs) / 2
    assert demo.validation(part) == demo.validation(whole)
