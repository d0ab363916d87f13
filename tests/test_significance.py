"""What per-user differences prove: p-values that hold for all comparisons, intervals, and what a study can detect."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from reranker.config import TrialConfig
from reranker.metrics import METRIC_NAMES, Ranks, chance, summarise
from results.compare import compare, findings
from results.significance import differences, mean_interval, smallest_detectable
from results.study_folder import StudyFolder, TrialStatus

RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(40, 50))


def test_one_pair_s_p_value_is_that_of_the_paired_permutation_test():
    first, second = NOISE[0, :12] + 0.4, NOISE[1, :12]
    exact = stats.permutation_test(
        (first, second), lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    (found,) = differences([(first, second)])
    assert found.mean == pytest.approx((first - second).mean())
    assert found.p == pytest.approx(exact.pvalue, abs=0.015)


def test_a_pair_among_many_needs_more_to_be_proven_and_an_exact_copy_costs_nothing():
    pair = (NOISE[0] + 0.45, NOISE[1])
    others = [(NOISE[i], NOISE[i + 1]) for i in range(2, 38, 2)]
    (alone,), (twice, copy), (among, *_) = (differences(family) for family in ([pair], [pair, pair], [pair, *others]))
    assert alone.proven
    assert twice.p == copy.p == pytest.approx(alone.p, abs=0.005)
    assert among.p > 3 * alone.p


def test_what_is_rejected_first_does_not_weigh_on_the_rest():
    """Holm's steps: once the clear one is out, the other is held against itself alone."""
    clear, doubtful = (NOISE[0] + 5, NOISE[1]), (NOISE[2] + 0.4, NOISE[3])
    (alone,), (_, stepped) = differences([doubtful]), differences([clear, doubtful])
    assert stepped.p == pytest.approx(alone.p, abs=0.01)


def test_rankers_that_agree_on_every_user_are_not_told_apart():
    (found,) = differences([(NOISE[0], NOISE[0])])
    assert (found.mean, found.p, found.proven) == (0.0, 1.0, False)


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide_on_each_side():
    values = RNG.normal(3.0, 1.0, size=2000)
    low, high = mean_interval(values)
    error = values.std(ddof=1) / np.sqrt(2000)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)
    assert mean_interval(np.full(5, 0.25)) == (0.25, 0.25)


def test_the_detectable_difference_of_610_users_is_the_known_one_and_grows_with_the_comparisons():
    assert smallest_detectable(0.22, users=610, comparisons=1) == pytest.approx(0.025, abs=0.0005)
    assert smallest_detectable(0.22, users=610, comparisons=100) > 0.035


def ranks(mean: float, seed: int) -> Ranks:
    drawn = np.random.default_rng(seed).poisson(mean, size=400)
    return Ranks(np.minimum(drawn, 19).astype(np.int64), np.zeros(400, np.int64))


@pytest.fixture
def study(tmp_path) -> StudyFolder:
    """Trials 0 and 1 are as good as each other, the second on a smaller base; trial 2 is at chance."""
    folder = StudyFolder.create(tmp_path, "compared")
    popular = ranks(4.0, seed=9)
    folder.write_manifest(
        {
            "metric": "ndcg_at_10", "knobs": ["model"], "plan": {"validation_lists": 400},
            "references": {"popularity": summarise(popular), "chance": chance(20)}, "best_reachable_recall_at_1": None,
        }
    )  # fmt: skip
    users = [f"u{i}" for i in range(400)]
    folder.baseline("popularity").path.mkdir(parents=True)
    folder.baseline("popularity").keep_ranks(users[::-1], Ranks(popular.greater[::-1], popular.ties))
    for number, (mean, parameters) in enumerate([(2.0, 300), (2.05, 100), (10.0, 100)]):
        found = ranks(mean, seed=number)
        folder.start_trial(number, TrialConfig(model="demo-tiny").model_dump())
        figures = {**dict.fromkeys(METRIC_NAMES, 0.0), **summarise(found)}
        figures |= {"epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "seconds": 5.0, "applied/parameters": parameters}
        folder.trial(number).append_epoch(figures)
        folder.trial(number).keep_ranks(users, found)
        folder.write_status(number, TrialStatus.COMPLETED)
    return folder


def test_the_winner_is_held_against_each_baseline_user_by_user(study):
    found = compare(study)
    assert (found.winner.number, found.users) == (0, 400)
    by_hand = summarise(ranks(2.0, 0))["ndcg_at_10"] - summarise(ranks(4.0, 9))["ndcg_at_10"]
    assert found.against["popularity"].mean == pytest.approx(by_hand)
    assert found.against["popularity"].proven
    low, high = found.intervals["popularity"]
    assert 0 < low < by_hand < high


def test_what_cannot_be_told_from_the_winner_is_named_with_the_cheapest_of_it(study):
    found = compare(study)
    assert [trial.number for trial in found.alike] == [0, 1]
    assert found.cheapest.number == 1
    assert "Not told apart from trial 1; the cheapest of them is trial 1 (0.0001M parameters)." in findings(
        compare(study)
    )


def test_a_study_without_a_finished_epoch_has_nothing_to_compare(tmp_path, study):
    empty = StudyFolder.create(tmp_path, "empty")
    empty.write_manifest(study.read_manifest())
    assert compare(empty) is None
    assert findings(compare(empty)) == []
