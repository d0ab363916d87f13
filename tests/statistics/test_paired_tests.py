"""What per-user differences prove: p-values that hold for all comparisons, intervals, and what a study can detect."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from reranker.config import TrialConfig
from reranker.metrics import Ranks, chance, summarise
from results.statistics.comparison import compare
from results.statistics.paired_tests import (
    Family,
    differences,
    mean_intervals,
    smallest_detectable,
    tied,
)
from results.statistics.sign_flips import Flips, Ranker
from results.statistics.verdict_text import findings, p_value, power, signed
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tests.present import present
from tests.stored import report

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
    low, high = mean_intervals(values[None])[0]
    error = values.std(ddof=1) / np.sqrt(2000)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.3 * error)


@pytest.mark.parametrize("users", [1, 5, 5000])
def test_the_interval_of_users_that_are_all_alike_holds_what_others_may_have(users):
    values = np.repeat([[0.0], [1.0], [0.25]], users, axis=1)
    none, all_right, alike = mean_intervals(values)
    exact = stats.binomtest(0, users).proportion_ci(method="exact")
    assert none == pytest.approx((exact.low, exact.high))
    assert all_right == pytest.approx((1 - exact.high, 1.0))
    assert alike == pytest.approx((0.25 * (1 - exact.high), 0.25 + 0.75 * exact.high))


def test_the_interval_of_users_of_unlike_numbers_of_lists_that_all_fail_is_that_of_one_list_each():
    [interval] = mean_intervals(np.zeros((1, 8)), sizes=np.array([0.5, 1.5] * 4))
    assert interval == pytest.approx(mean_intervals(np.zeros((1, 8)))[0])


def test_the_detectable_difference_of_610_users_is_the_known_one_and_grows_with_the_reach():
    assert smallest_detectable(0.22, users=610, reach=1.96) == pytest.approx(0.025, abs=0.0005)
    assert smallest_detectable(0.22, users=610, reach=3.5) > 0.035


@pytest.mark.parametrize(("families", "fewest"), [(1, 6), (2, 7)])
def test_a_difference_is_detectable_where_a_lead_for_every_user_is_proven(families, fewest):
    """Of n users' signs, 2 of 2^n ways to flip them leave all alike, and each family has its share of the level."""
    for users in range(1, 10):
        level = np.linspace(0.4, 0.5, users)
        rankers = [Ranker.of(level + 0.3), Ranker.of(np.zeros(users))]
        (lead,) = Family.of(Flips.of(rankers), [(0, 1)], families).differences
        assert np.isfinite(smallest_detectable(0.2, users, 1.96, families)) == lead.proven == (users >= fewest)


# The choice of an epoch


def noise(reports: int, seed: int, users: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(reports, users))


def chosen(reports: np.ndarray) -> Ranker:
    return Ranker((reports,), (int(reports.mean(axis=1).argmax()),))


def false_wins(reports: int, *, told: bool) -> int:
    """Of 200 rankers as good as their baseline, those that are said to differ, with all reports told or the best alone."""
    wins = 0
    for seed in range(200):
        ranker = chosen(noise(reports, seed))
        shown = ranker if told else Ranker.of(ranker.values)
        flips = Flips.of([shown, Ranker.of(0.3 * noise(1, 10_000 + seed)[0])], seed, resamples=499)
        wins += Family.of(flips, [(0, 1)]).differences[0].proven
    return wins


def test_the_best_of_ten_epochs_proves_nothing_by_being_the_best_of_ten():
    assert false_wins(10, told=False) > 30
    assert false_wins(10, told=True) <= 14


def test_runs_choose_their_epochs_each_for_itself():
    """The mean of runs that each took its best of ten has more luck in it than one choice for all would have."""
    wins = 0
    for seed in range(200):
        runs = [noise(10, 100 * seed + i) for i in range(3)]
        ranker = Ranker(tuple(runs), tuple(int(run.mean(axis=1).argmax()) for run in runs))
        flips = Flips.of([ranker, Ranker.of(0.3 * noise(1, 50_000 + seed)[0])], seed, resamples=499)
        wins += Family.of(flips, [(0, 1)]).differences[0].proven
    assert wins <= 14


def test_an_epoch_far_behind_the_chosen_one_costs_nothing():
    reports = noise(2, 0)
    reports[1] -= 2
    pair = [chosen(reports), Ranker.of(noise(1, 1)[0])]
    without = [Ranker.of(reports[0]), pair[1]]
    (found,), (alone,) = (Family.of(Flips.of(rankers), [(0, 1)]).differences for rankers in (pair, without))
    assert vars(found) == pytest.approx(vars(alone), rel=1e-9)


def test_trials_that_were_stopped_for_their_bad_luck_are_not_proven_worse():
    """Who is ahead after the first report has nine more to choose from; whether by luck must show when signs are flipped."""
    wins = 0
    for seed in range(150):
        own = np.sqrt(0.8) * noise(8, seed)
        runs = [mine + np.sqrt(0.2) * noise(10, 1000 * seed + i) for i, mine in enumerate(own)]
        cut = np.median([run[0].mean() for run in runs])
        rankers = [chosen(run if run[0].mean() > cut else run[:1]) for run in runs]
        best = max(range(8), key=lambda i: rankers[i].values.mean())
        ordered = [rankers[best], *(ranker for i, ranker in enumerate(rankers) if i != best)]
        wins += len(tied(Flips.of(ordered, seed, resamples=499), 8)) < 8
    assert wins <= 12


def test_the_tie_set_is_that_of_step_down_max_t_on_all_pairs():
    """By its definition, pair by pair; in a pair of unequal lengths either ranker may have had more reports."""
    for seed in range(3):
        gaps = np.random.default_rng(seed).choice([0.0, 0.15, 0.3], 30)
        rankers = [chosen(noise(1 + i % 3, 50 * seed + i, users=300) - gap) for i, gap in enumerate(gaps)]
        rankers.sort(key=lambda ranker: -ranker.values.mean())
        flips = Flips.of(rankers, seed)
        pairs = [(i, j) for i in range(30) for j in range(i + 1, 30)]
        draws = []
        for i, j in pairs:
            few, many = sorted((flips.lengths[i], flips.lengths[j]))
            ahead = flips.at_level[many, i] - flips.at_level[few, j]
            draws.append(
                np.maximum(ahead, flips.at_level[many, j] - flips.at_level[few, i]) if few < many else np.abs(ahead)
            )
        sizes = np.array(draws, dtype=np.float64)
        roots = np.sqrt((sizes**2).mean(axis=1))
        observed = np.array([abs(flips.means[i] - flips.means[j]) * flips.users for i, j in pairs]) / roots
        statistics, p, largest_p = sizes / roots[:, None], {}, 0.0
        left = sorted(range(len(pairs)), key=lambda pair: -observed[pair])
        while left:
            reached = np.count_nonzero(statistics[left].max(axis=0) >= observed[left[0]])
            largest_p = max(largest_p, (reached + 1) / (sizes.shape[1] + 1))
            p[pairs[left.pop(0)]] = largest_p
        expected = [0, *(j for j in range(1, 30) if p[0, j] >= 0.05)]
        assert 1 < len(expected) < 30
        assert tied(flips, 30) == expected


def test_an_untrained_trial_all_but_equal_to_the_untrained_baseline_hides_nothing():
    """It differs from it by next to nothing at its chosen report, and by as much as any other in its other reports."""
    base = noise(1, 0, users=1000)[0]
    winner = np.stack([base + 0.4 + 0.7 * row for row in noise(3, 1, users=1000)])
    idle = np.stack([base + 0.01 * noise(1, 2, users=1000)[0], *(base + row for row in noise(2, 3, users=1000) - 0.05)])
    rankers = [chosen(winner), Ranker((idle,), (0,)), Ranker.of(base)]
    found = Family.of(Flips.of(rankers), [(0, 2), (1, 2)]).differences
    assert found[0].p < 0.001
    assert found[0].high - found[0].low < 0.2
    assert not found[1].proven
    assert tied(Flips.of(rankers), 2) == [0]


# Intervals that hold together


def test_intervals_of_a_family_hold_together():
    """Each for itself would miss in one family of three; together they miss in one of twenty."""
    missed = 0
    for seed in range(200):
        rankers = [Ranker.of(row) for row in noise(9, seed)]
        found = Family.of(Flips.of(rankers, seed, resamples=499), [(i, 8) for i in range(8)]).differences
        missed += any(not d.low <= 0 <= d.high for d in found)
    assert missed <= 17


def test_one_pair_s_interval_is_that_of_its_standard_error():
    first, second = noise(2, 3, users=2000)
    (found,) = differences([(first, second)])
    half = 1.96 * (first - second).std(ddof=1) / np.sqrt(2000)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.06 * half)


def test_an_interval_never_contradicts_its_p_value():
    """Stepping down proves more than intervals that hold for all: there they end at zero."""
    base = noise(1, 0)[0]
    rankers = [
        Ranker.of(base + level + 0.5 * row) for level, row in zip(np.linspace(0, 0.3, 40), noise(40, 1), strict=True)
    ]
    found = Family.of(Flips.of([*rankers, Ranker.of(base)]), [(i, 40) for i in range(40)]).differences
    assert [d.low >= 0 for d in found] == [d.proven for d in found]
    assert any(d.low == 0 for d in found if d.proven)
    assert 0 < sum(d.proven for d in found) < 40


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
        size: dict[str, Any] = {"applied/parameters": parameters}
        found = ranks(mean, seed=number)
        folder.start_trial(number, TrialConfig(model="demo-tiny"))
        report(folder.trial(number), users, found, **size)
        folder.write_status(number, TrialStatus.COMPLETED)
    return folder


def test_the_winner_is_held_against_each_baseline_user_by_user(study):
    found = present(compare(study))
    assert (found.winner.number, found.users) == (0, 400)
    by_hand = summarise(ranks(2.0, 0))["ndcg_at_10"] - summarise(ranks(4.0, 9))["ndcg_at_10"]
    assert found.against["popularity"].mean == pytest.approx(by_hand)
    assert found.against["popularity"].proven
    assert 0 < found.against["popularity"].low < by_hand < found.against["popularity"].high


def test_what_cannot_be_told_from_the_winner_is_named_with_the_cheapest_of_it(study):
    found = present(compare(study))
    assert [trial.number for trial in found.tie_set] == [0, 1]
    assert found.cheapest.number == 1
    assert "Not proven better than trial 1. The cheapest of these is trial 1 (0.0001M parameters)." in findings(found)


def test_the_cheapest_is_told_by_flops_and_never_by_a_stopwatch(study):
    for number, (flops, seconds) in enumerate([(1e9, 0.001), (2e9, 0.0001)]):
        (epoch,) = study.trial(number).read_reports()
        (study.trial(number).path / "epochs.jsonl").unlink()
        study.trial(number).append_report({**epoch, "applied/flops_per_list": flops, "seconds_per_list": seconds})
    found = present(compare(study))
    assert found.cheapest.number == 0
    assert (
        "Not proven better than trial 1. The cheapest of these is the winner itself (1 GFLOPs a list, 0.0003M parameters)."
        in findings(found)
    )


def test_a_single_configuration_is_not_compared_with_others(tmp_path, study):
    for number in (1, 2):
        shutil.rmtree(study.trial(number).path)
    said = " ".join(findings(compare(study)))
    assert "every other" not in said
    assert "Not proven better" not in said
    assert "allow for all epochs and baselines being tested together" in said


def test_what_the_words_say_of_a_comparison(study):
    found = present(compare(study))
    assert f"an 80% chance of proving a true difference of {found.detectable:.3f}" in findings(found)[2]
    assert "allow for picking the best of 3 configurations and of their epochs" in findings(found)[2]
    shutil.rmtree(study.trial(1).path)
    assert "Trial 0 is proven better than the other configuration." in findings(compare(study))


@pytest.mark.parametrize(
    ("detectable", "said"),
    [
        (0.25, "this comparison has an 80% chance of proving a true difference of 0.250"),
        (1.5, "there is no difference that this comparison has an 80% chance of proving"),
        (np.inf, "there is no difference that this comparison has an 80% chance of proving"),
        (0.0, "who all differ by the same amount, the power of this comparison is not known"),
    ],
)
def test_what_cannot_be_detected_is_not_said_to_be(study, detectable, said):
    assert power(replace(present(compare(study)), detectable=detectable)) == f"with 400 users, {said}"


def test_a_study_without_a_finished_epoch_has_nothing_to_compare(tmp_path, study):
    empty = StudyFolder.create(tmp_path, "empty")
    empty.write_manifest(study.read_manifest())
    assert compare(empty) is None
    assert findings(compare(empty)) == []


@pytest.mark.parametrize(
    ("value", "said"), [(0.0004, "p < 0.001"), (0.0496, "p = 0.0496"), (0.05, "p = 0.050"), (0.0504, "p = 0.050")]
)
def test_a_p_value_is_never_rounded_over_the_level(value, said):
    assert p_value(value) == said


@pytest.mark.parametrize(("value", "said"), [
    (0.0123, "+0.012"), (-0.0123, "-0.012"), (-0.0003, "-0.0003"), (0.0003, "+0.0003"), (-0.00002, "0.000"), (0.0, "0.000"), (-0.0, "0.000"),
])  # fmt: skip
def test_no_difference_is_shown_as_a_zero_with_a_sign(value, said):
    assert signed(value) == said
