"""Users with several lists: figures are means over lists, and whatever is proven is proven over users."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reranker.config import TrialConfig
from reranker.metrics import Picks, Ranks, values_of
from results.sealed_test import _against
from results.statistics.comparison import Comparison, compare
from results.statistics.lists_of_users import ListsOfUsers
from results.statistics.paired_tests import differences, mean_intervals
from results.statistics.segments import segments
from results.statistics.top_items import first_places
from results.statistics.verdict_text import findings
from results.study.list_facts import ListFacts
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tests.present import present
from tests.stored import USERS, Maker, report

RNG = np.random.default_rng(5)
OWNERS = np.repeat(np.arange(40), RNG.integers(1, 7, 40))  # whose each of some 140 lists is
LISTS = ListsOfUsers.of([f"u{owner:02d}" for owner in OWNERS])
VALUES = RNG.random(40)[OWNERS] + RNG.normal(0, 0.1, len(OWNERS))


def test_the_mean_over_users_is_the_mean_over_lists():
    totals = LISTS.totals(VALUES)
    assert (len(LISTS), LISTS.lists, len(totals)) == (40, len(OWNERS), 40)
    assert totals.mean() == pytest.approx(VALUES.mean())
    assert totals[3] == pytest.approx(VALUES[OWNERS == 3].sum() * 40 / len(OWNERS))
    assert LISTS.totals(np.stack([VALUES, 2 * VALUES]))[1] == pytest.approx(2 * totals)


def test_users_with_a_list_each_are_left_as_they_are():
    single = ListsOfUsers.of([f"u{i}" for i in range(9)])
    values = RNG.random(9)
    assert single.totals(values) is values
    assert single.interval(values) == mean_intervals(values[None])[0]
    assert single.error(values) == values.std(ddof=1) / 3


def test_a_part_of_the_lists_has_the_users_that_are_in_it():
    part = (OWNERS % 2 == 0) & (VALUES > 0.4)
    expected = ListsOfUsers.of([f"u{owner:02d}" for owner in OWNERS[part]])
    found = LISTS.on(part)
    assert (found.first.tolist(), found.lists) == (expected.first.tolist(), expected.lists)
    assert found.totals(VALUES[part]) == pytest.approx(expected.totals(VALUES[part]))


def test_the_interval_is_that_of_drawing_users_with_all_their_lists():
    low, high = LISTS.interval(VALUES)
    rng, of_user = np.random.default_rng(1), [VALUES[user == OWNERS] for user in range(40)]
    means = [np.concatenate([of_user[user] for user in rng.integers(0, 40, 40)]).mean() for _ in range(4000)]
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.01)
    assert LISTS.error(VALUES) == pytest.approx(np.std(means), rel=0.06)
    assert high - low > 1.7 * np.ptp(mean_intervals(VALUES[None])[0]), (
        "of lists that were independent it would be narrower"
    )


def test_equal_values_have_no_spread_and_the_interval_of_as_many_users_however_many_lists_they_have():
    [interval] = mean_intervals(np.full((1, len(LISTS)), 0.3))
    assert LISTS.interval(np.full(len(OWNERS), 0.3)) == pytest.approx(interval)
    assert LISTS.error(np.full(len(OWNERS), 0.3)) == pytest.approx(0.0, abs=1e-12)


def test_twelve_users_with_ten_lists_prove_no_more_than_twelve_users():
    gain = np.array([0.3, -0.2, 0.4, 0.1, -0.3, 0.2, 0.3, -0.1, 0.4, -0.2, 0.1, 0.1])
    repeated, lists = np.repeat(gain, 10), ListsOfUsers.of([f"u{i:02d}" for i in np.repeat(np.arange(12), 10)])
    (alone,), (by_user,), (by_list,) = (
        differences([(values, np.zeros_like(values))]) for values in (gain, lists.totals(repeated), repeated)
    )
    assert by_user.p == pytest.approx(alone.p)
    assert (by_user.low, by_user.high) == pytest.approx((alone.low, alone.high))
    assert not by_user.proven
    assert by_list.proven, "as though they were 120 users"


def a_study(runs: Path, times: int) -> StudyFolder:
    """Two trials and a baseline, on as many lists of each user that are all alike."""
    study, rng = Maker(runs, f"times-{times}").lists().study, np.random.default_rng(2)
    ids, facts = [user for user in (f"u{i}" for i in range(USERS)) for _ in range(times)], ListFacts.of_study(study)
    is_third = facts.candidates == 3  # which stands first wherever it is listed
    places = np.repeat(facts.place, times)
    preferred = np.repeat(np.where(is_third.any(axis=1), is_third.argmax(axis=1), facts.place), times)
    for number, share in enumerate((0.5, 0.42, 0.35)):
        first = np.repeat(rng.random(USERS) < share, times)
        ranks = Ranks(np.where(first, 0, 9), np.zeros(len(ids), np.int64))
        if number == 2:
            study.baseline("popularity").path.mkdir(parents=True)
            study.baseline("popularity").keep_ranks(ids, ranks)
            continue
        study.start_trial(number, TrialConfig(model="demo-tiny", epochs=1, candidates=10))
        picks = Picks(places, preferred, np.full(len(ids), 0.5))
        report(study.trial(number), ids, ranks, picks)
        study.write_status(number, TrialStatus.COMPLETED)
    replace(
        facts,
        user_ids=ids,
        history=np.repeat(facts.history, times),
        target=np.repeat(facts.target, times),
        candidates=np.repeat(facts.candidates, times, axis=0),
    ).keep(study)
    return study


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> list[StudyFolder]:
    """With a list a user, and with four that are the same."""
    folder = tmp_path_factory.mktemp("runs")
    return [a_study(folder, times) for times in (1, 4)]


def facts_of(found: Comparison) -> list[float]:
    against = found.against["popularity"]
    return [against.mean, against.p, against.low, against.high, *found.interval, found.detectable, found.user_error]


def test_a_list_four_times_proves_no_more_than_once(both):
    once, often = (present(compare(study)) for study in both)
    assert facts_of(often) == pytest.approx(facts_of(once), abs=2e-4)
    assert once.against["popularity"].proven
    assert [trial.number for trial in often.tie_set] == [trial.number for trial in once.tie_set] == [0, 1]
    assert ((once.users, once.lists), (often.users, often.lists)) == ((USERS, USERS), (USERS, 4 * USERS))
    assert f"(95%, {USERS} users)." in findings(once)[0]
    assert f"(95%, {4 * USERS} lists of {USERS} users)." in findings(often)[0]


def test_nor_does_it_in_a_segment(both):
    once, often = (present(segments(study)) for study in both)
    for one, other in zip(once.parts, often.parts, strict=True):
        assert (other.name, other.lists) == (one.name, 4 * one.lists)
        assert vars(other.winner["ndcg_at_10"]) == pytest.approx(vars(one.winner["ndcg_at_10"]), abs=2e-4)
        assert other.against["popularity"].p == pytest.approx(one.against["popularity"].p, abs=2e-4)
    assert len(once.parts) == 10


def test_nor_does_an_item_that_stands_first_too_often(both):
    once, often = (present(first_places(study, next(study.trials()))) for study in both)
    assert [(item.item_id, item.p) for item in often.items] == [(item.item_id, item.p) for item in once.items]
    assert any(item.proven for item in once.items)
    assert often.items[0].first == 4 * once.items[0].first


def test_nor_does_the_sealed_test():
    first, second = (RNG.random(60) < share for share in (0.6, 0.3))

    def against(times: int) -> dict[str, float]:
        ranks = [Ranks(np.where(np.repeat(f, times), 0, 9), np.zeros(60 * times, np.int64)) for f in (first, second)]
        users = ListsOfUsers.of([f"u{i:02d}" for i in np.repeat(np.arange(60), times)])
        assert values_of(ranks[0], "recall_at_1").mean() == first.mean()
        return _against(ranks[0], {"popularity": ranks[1]}, "recall_at_1", users)["popularity"]

    assert against(5) == pytest.approx(against(1))
