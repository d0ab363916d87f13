"""What trains, what validates and what tests: leave-one-out, and by time on a table that is split by hand."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from reranker.config import NegativesMix, TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.candidates.first_stage import recommender
from reranker.data.candidates.leak_guard import check_no_leak
from reranker.data.example import Example
from reranker.data.interactions import Interactions
from reranker.data.recommenders.collaborative_scores import ItemCounts
from reranker.data.recommenders.linear_recommenders import RECOMMENDERS, fitted
from reranker.data.sources import load
from reranker.data.split import HeldOut, Split, split
from reranker.data_config import DemoData, TablesData
from reranker.errors import InputError

# The day in January 2020 on which a user touched an item. Validation is from the 6th, the test from the 9th:
#       trains      validates   tests
# u1    a1 b3       c6          d9
# u2    b2 c4       e7          a10
# u3    c1 d5       e8
# u4                e6 a8       b9      e has nothing before it, so a is the first to find
DAYS = "u1 a 1, u1 b 3, u1 c 6, u1 d 9, u2 b 2, u2 c 4, u2 e 7, u2 a 10, u3 c 1, u3 d 5, u3 e 8, u4 e 6, u4 a 8, u4 b 9"
TIME: dict[str, Any] = {"split": "time", "validation_from": "2020-01-06", "test_from": "2020-01-09"}
SHARES: dict[str, Any] = {
    "split": "time",
    "validation_from": 0.5,
    "test_from": 0.8,
}  # the 8th of the 14 is of the 6th, the 12th of the 9th


def tables(folder: Path, days: str = DAYS, kind: str = "ISO", **settings: Any) -> TablesData:
    """'u1 a 3, …' → tables; the kind is what timestamps are written as."""
    rows = pd.DataFrame([row.split() for row in days.split(",")], columns=["user_id", "item_id", "day"])
    dates = pd.Timestamp("2019-12-31") + pd.to_timedelta(rows["day"].astype(int), unit="D")
    units: dict[str, Literal["s", "ms", "us", "ns"]] = {
        "seconds": "s",
        "milliseconds": "ms",
        "microseconds": "us",
        "nanoseconds": "ns",
    }
    times = rows["day"] if kind == "days" else dates.dt.as_unit(units[kind]).astype("int64") if kind in units else dates
    rows.assign(timestamp=times).drop(columns="day").to_csv(folder / "i.csv", index=False)
    items = sorted(set(rows["item_id"]))
    pd.DataFrame({"item_id": items, "text": [f"Item {item}" for item in items]}).to_csv(folder / "t.csv", index=False)
    return TablesData(
        **{"interactions": folder / "i.csv", "items": folder / "t.csv", "min_user": 3, "min_item": 1, **settings}
    )


def in_ids(interactions: Interactions, parts: Split) -> dict[str, dict[str, str]]:
    """What trains, and 'history>target' of what is held out, by user and by the items' ids."""

    def told(held_out: HeldOut) -> dict[str, str]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for user, position, item in zip(held_out.users, held_out.positions, held_out.items, strict=True):
            history = "".join(interactions.item_ids[i] for i in interactions.sequences[user][:position])
            found[interactions.user_ids[user]].append(f"{history}>{interactions.item_ids[item]}")
        return {user: " ".join(targets) for user, targets in found.items()}

    train = ("".join(interactions.item_ids[i] for i in sequence) for sequence in parts.train)
    return {
        "train": dict(zip(interactions.user_ids, train, strict=True)),
        "validation": told(parts.validation),
        "test": told(parts.test),
    }


BY_HAND = {
    "train": {"u1": "ab", "u2": "bc", "u3": "cd", "u4": ""},
    "validation": {"u1": "ab>c", "u2": "bc>e", "u3": "cd>e", "u4": "e>a"},
    "test": {"u1": "abc>d", "u2": "bce>a", "u4": "ea>b"},
}


def test_leave_one_out_holds_each_users_last_two_items_out(tmp_path):
    data = load(tables(tmp_path, "u1 c 3, u1 a 1, u1 b 2, u2 b 9, u2 d 8, u2 a 7, u2 c 6"))
    assert in_ids(data, split(data)) == {
        "train": {"u1": "a", "u2": "ca"},
        "validation": {"u1": "a>b", "u2": "ca>d"},
        "test": {"u1": "ab>c", "u2": "cad>b"},
    }


@pytest.mark.parametrize("kind", ["ISO", "seconds", "milliseconds", "microseconds", "nanoseconds"])
@pytest.mark.parametrize("settings", [TIME, SHARES])
def test_a_split_by_time_is_that_by_hand_in_every_unit(tmp_path, kind, settings):
    data = load(tables(tmp_path, kind=kind, **settings))
    assert in_ids(data, split(data)) == BY_HAND
    assert (
        str(data.periods) == "training before 2020-01-06, validation from then to before 2020-01-09, test from then on"
    )


def test_timestamps_that_are_no_dates_are_split_by_their_numbers_or_by_shares(tmp_path):
    for settings in ({"split": "time", "validation_from": 6, "test_from": 9}, SHARES):
        data = load(tables(tmp_path, kind="days", **settings))
        assert in_ids(data, split(data)) == BY_HAND
        assert str(data.periods) == "training before 6, validation from then to before 9, test from then on"


@pytest.mark.parametrize("base", [20_180_600, 20_180_600_000_000], ids=["day", "second"])
def test_times_written_as_digits_of_a_date_are_shown_as_they_are(tmp_path, base):
    by_number = tables(tmp_path, kind="days", split="time", validation_from=base + 6, test_from=base + 9)
    table = pd.read_csv(by_number.interactions)
    table.assign(timestamp=table["timestamp"] + base).to_csv(by_number.interactions, index=False)
    data = load(by_number)
    assert in_ids(data, split(data)) == BY_HAND
    shown = f"training before {base + 6}, validation from then to before {base + 9}, test from then on"
    assert str(data.periods) == shown
    assert faults(by_number.model_copy(update=TIME))[0].startswith(
        f"data.validation_from: a date needs timestamps that count from 1970; these run from {base + 1} to {base + 10} "
    )


def test_a_time_that_stands_for_none_does_not_change_what_the_others_are(tmp_path):
    late = tables(tmp_path, DAYS + ", u1 e 11", kind="seconds", **TIME)
    table = pd.read_csv(late.interactions)
    table.loc[len(table) - 1, "timestamp"] = 99_999_999_999
    table.to_csv(late.interactions, index=False)
    data = load(late)
    assert in_ids(data, split(data)) == BY_HAND
    assert str(data.periods).startswith("training before 2020-01-06, validation from then to before 2020-01-09")


def test_an_hour_and_a_zone_can_be_said(tmp_path):
    hours = {"split": "time", "validation_from": "2020-01-06T01:00:00+02:00", "test_from": "2020-01-08 00:00:01"}
    data = load(tables(tmp_path, **hours))
    assert in_ids(data, split(data)) == {**BY_HAND, "validation": {**BY_HAND["validation"], "u3": "cd>e"}}
    assert str(data.periods).startswith(
        "training before 2020-01-05 23:00:00, validation from then to before 2020-01-08 00:00:01"
    )


def test_nine_tenths_of_the_interactions_come_before_the_test_unless_it_is_said(tmp_path):
    days = ", ".join(
        f"u{u} {item} {20 * u + place}" for u in range(5) for place, item in enumerate("abcdefghijklmnopqrst")
    )
    both = (
        days
        + ", "
        + ", ".join(
            f"w{u} {item} {20 * u + place}" for u in range(5) for place, item in enumerate("abcdefghijklmnopqrst")
        )
    )
    data = load(tables(tmp_path, both, kind="days", split="time"))
    assert data.periods is not None
    assert (data.periods.validation_from, data.periods.test_from) == ("80", "90")


def test_several_targets_of_a_user_each_have_all_before_them_as_history(tmp_path):
    data = load(tables(tmp_path, DAYS + ", u1 e 7, u1 f 8, u2 d 11, u2 f 12", **TIME))
    whole = in_ids(data, split(data, None))
    assert whole["validation"] == {**BY_HAND["validation"], "u1": "ab>c abc>e abce>f"}
    assert whole["test"] == {"u1": "abcef>d", "u2": "bce>a bcea>d bcead>f", "u4": "ea>b"}
    two = split(data, 2)
    assert in_ids(data, two)["validation"] == {**BY_HAND["validation"], "u1": "ab>c abc>e"}
    assert (two.validation.users.tolist(), two.validation.nth.tolist()) == ([0, 0, 1, 2, 3], [0, 1, 0, 0, 0])
    assert two.validation.rows(np.array([3, 0, 0, 1]), np.array([0, 1, 2, 0])).tolist() == [4, 1, -1, 2]


def test_what_an_item_is_known_by(tmp_path):
    data = load(tables(tmp_path, DAYS + ", u1 f 10", **TIME))
    parts = split(data)
    known = {part: "".join(np.array(data.item_ids)[parts.known(part, 6)]) for part in ("train", "validation", "test")}
    assert known == {"train": "abcd", "validation": "abcde", "test": "abcdef"}
    whole = split(load(tables(tmp_path)))
    assert whole.known("train", 5).all(), "leave-one-out, all users share the catalogue"


def lists_in_ids(data: RerankingData, lists: list[Example]) -> list[tuple[str, list[str], list[str], str]]:
    ids, users = np.array(data.interactions.item_ids), data.interactions.user_ids
    return [
        (
            users[e.user],
            ids[list(e.history)].tolist(),
            sorted(ids[list(e.candidates)]),
            str(ids[e.candidates[e.target]]),
        )
        for e in lists
    ]


FIVE = (
    DAYS + ", u5 g 1, u5 h 2, u5 f 10"
)  # a b c d g h are touched in training, e from the validation on, f in the test
BARE = TrialConfig(candidates=4, collaborative_scores="none")


def test_lists_hold_only_what_was_known_when_their_period_ended(tmp_path):
    data = RerankingData.prepare(tables(tmp_path, FIVE, **TIME))
    listed = {user: "".join(listed) for user, _, listed, _ in lists_in_ids(data, data.validation(BARE))}
    assert (listed["u1"], listed["u2"]) == ("cegh", "degh"), "all that they never touch, but f"
    drawn = set()
    for seed in range(40):
        lists = data.sampler.evaluation_examples("validation", n=2, negatives="popularity", users=None, seed=seed)
        drawn |= {item for user, _, listed, _ in lists_in_ids(data, lists) if user == "u3" for item in listed}
    assert drawn == set("eabgh"), "its target, and what it never touches, but f"
    training = lists_in_ids(data, data.training_examples(BARE.model_copy(update={"candidates": 3}), 0))
    assert [(user, history, target) for user, history, _, target in training] == [
        ("u1", ["a"], "b"),
        ("u2", ["b"], "c"),
        ("u3", ["c"], "d"),
        ("u5", ["g"], "h"),
    ]
    assert training[0][2] == ["b", "g", "h"], "e is not known yet"
    with pytest.raises(InputError, match=r"1 user has fewer, user 'u1' has 2 of 6: lower it to 3"):
        data.training_examples(BARE, 0)


def test_the_guard_refuses_what_is_not_known_yet_and_histories_that_reach_over_their_target(tmp_path):
    data = RerankingData.prepare(tables(tmp_path, FIVE, **TIME))
    lists, codes = data.validation(BARE), {item: code for code, item in enumerate(data.interactions.item_ids)}
    good = next(example for example in lists if data.interactions.user_ids[example.user] == "u2")

    def refused(example: Example, rule: str) -> None:
        with pytest.raises(InputError, match=rule):
            check_no_leak([example], data.interactions, data.split, "validation")

    check_no_leak([good], data.interactions, data.split, "validation")
    unknown = replace(good, candidates=(codes["e"], codes["f"], codes["d"]), target=0)
    refused(unknown, "a candidate must be an item that somebody touched before the test")
    later = replace(good, history=(*good.history, codes["a"]))
    refused(later, "a history must hold only what the user touched before its target")
    refused(replace(good, nth=1), "the target must be the item held out for validation")


def test_the_plan_tells_the_periods_and_how_many_targets_are_cold(tmp_path):
    data = RerankingData.prepare(tables(tmp_path, **TIME))
    told = data.describe(BARE.model_copy(update={"candidates": 2}))
    assert (
        "  split by time: training before 2020-01-06, validation from then to before 2020-01-09, test from then on\n"
        in told
    )
    assert "  6 interactions of 3 users and 4 items train\n" in told
    assert "  4 items to find, of 4 users, validate; 2 of them are cold: nobody touched them in training\n" in told
    assert "split by time" not in RerankingData.prepare(DemoData(users=20)).describe(TrialConfig())


# The future


def world(folder: Path, late: str, begins: int, **settings) -> RerankingData:
    """60 users with 4 to 9 items of 30 on days 0 to 99; from the day `begins` on all items are others, called by `late`."""
    rng, rows = np.random.default_rng(3), []
    weights = 1 / np.arange(1, 31) ** 0.5
    for user in range(60):
        items = rng.choice(30, rng.integers(4, 10), replace=False, p=weights / weights.sum())
        days = np.sort(rng.choice(100, len(items), replace=False))
        for place, (item, day) in enumerate(zip(items, days, strict=True)):
            rows.append(f"u{user:02d} {f'{late}{place}' if day >= begins else f'i{item:02d}'} {day}")
    split_at = {"split": "time", "validation_from": 60, "test_from": 80}
    return RerankingData.prepare(tables(folder, ", ".join(rows), kind="days", **split_at, **settings))


MIXED = TrialConfig(
    candidates=5, examples_per_user=None, collaborative_scores="counts",
    negatives=NegativesMix(uniform=0.4, popularity=0.3, retriever=0.3),
)  # fmt: skip


@pytest.mark.parametrize("settings", [{}, {"evaluation_negatives": "popularity"}, {"candidate_mode": "retrieval"}])
def test_what_happens_in_the_test_changes_nothing_before_it(tmp_path, settings):
    one, other = (world(tmp_path, late, 80, **settings) for late in ("a", "x"))
    assert one.interactions.item_ids[0].startswith("a")
    assert other.interactions.item_ids[0] == "i00", "so that every code is another"

    def made(data: RerankingData) -> list[object]:
        lists = [data.training_examples(MIXED, 0), data.training_examples(MIXED, 1), data.validation(MIXED)]
        shared = [example for group in data.shared_examples(MIXED, 0, 4) for example in group]
        ranks = data.baselines(MIXED, "validation")
        return [
            *(lists_in_ids(data, [e for e in some if e.target >= 0]) for some in [*lists, shared]),
            [np.round(e.collaborative, 5).tolist() for some in lists for e in some],
            {name: (found.greater.tolist(), found.ties.tolist()) for name, found in ranks.ranks.items()},
            data.describe(MIXED).splitlines()[3:],
        ]

    whole = made(one)
    assert whole == made(other)
    assert whole == made(one.sealed())


def test_what_happens_after_the_training_changes_no_ranker(tmp_path):
    one, other = (world(tmp_path, late, 60) for late in ("a", "x"))
    both = [lists_in_ids(data, data.training_examples(MIXED, 2)) for data in (one, other)]
    assert both[0] == both[1]
    histories = []
    for data in (one, other):
        codes = {item: code for code, item in enumerate(data.interactions.item_ids)}
        known = np.flatnonzero(data.split.known("train", len(codes)))
        assert [data.interactions.item_ids[code] for code in known] == [f"i{item:02d}" for item in range(30)]
        histories.append(([[codes["i03"], codes["i00"]], [codes["i07"]]], known, len(codes)))
    for name in RECOMMENDERS:
        scores = [
            fitted(name, data.split.before("validation"), items, on_known=True).scores(asked)[:, known]
            for data, (asked, known, items) in zip((one, other), histories, strict=True)
        ]
        assert np.allclose(scores[0], scores[1], rtol=1e-9, atol=1e-12), name
        assert scores[0].any()
    features = [
        ItemCounts.of(data.split.before("validation"), items).features(asked, np.tile(known, (2, 1)))
        for data, (asked, known, items) in zip((one, other), histories, strict=True)
    ]
    assert np.array_equal(features[0], features[1])


def test_a_recommender_on_known_items_scores_them_as_one_that_has_no_others(tmp_path):
    data = world(tmp_path, "x", 60)
    items = len(data.interactions.item_ids)
    sequences = data.split.before("validation")
    for name in RECOMMENDERS:
        alone = RECOMMENDERS[name](sequences, 30).scores([[3, 0]])[0]
        whole = fitted(name, sequences, items, on_known=True).scores([[3, 0]])[0]
        assert np.allclose(whole[:30], alone)
        assert not whole[30:].any()


def test_texts_of_later_items_do_not_tell_how_rare_a_word_is(tmp_path):
    data = world(tmp_path, "x", 60)
    sequences, ids = data.split.before("validation"), data.interactions.item_ids
    colours = [f"{('red', 'blue')[place % 3 == 0]} {'door ' * (place % 4)}" for place in range(30)]
    scores = []
    for later in ("red", "blue door " * 9):
        texts = [colours[int(item[1:])] if item.startswith("i") else later for item in ids]
        scores.append(recommender("bm25", sequences, texts, None, on_known=True).scores([[3, 0], [7]])[:, :30])
    assert np.array_equal(scores[0], scores[1])
    assert np.ptp(scores[0]) > 0


def test_the_demo_split_by_time_is_the_demo_split_leave_one_out(demo):
    """All of its users have an item at each of the times 0 to 7."""
    config = TrialConfig(candidates=20)
    by_time = RerankingData.prepare(DemoData(users=300, split="time", validation_from=6, test_from=7))

    def asked(lists: list[Example]) -> list[tuple[int, tuple[int, ...], int]]:
        return [(example.user, example.history, example.candidates[example.target]) for example in lists]

    assert asked(by_time.validation(config)) == asked(demo.validation(config))
    assert asked(by_time.test(config)) == asked(demo.test(config))
    assert asked(by_time.training_examples(config, 1)) == asked(demo.training_examples(config, 1))


# Faults


def faults(config: TablesData) -> list[str]:
    with pytest.raises(InputError) as caught:
        RerankingData.prepare(config)
    return str(caught.value).splitlines()


def test_times_that_leave_a_side_empty_are_told_with_the_times_that_there_are(tmp_path):
    runs = "the interactions run from 2020-01-01 to 2020-01-10"

    def told(**begins) -> list[str]:
        return faults(tables(tmp_path, split="time", **begins))

    assert told(validation_from="2019-06-01", test_from="2020-01-09") == [
        (
            "data.validation_from: there must be interactions before the validation, which begins on 2019-06-01 "
            f"(got '2019-06-01'); {runs}"
        )
    ]
    assert told(validation_from="2020-01-06", test_from="2021-01-01") == [
        f"data.test_from: there must be interactions in the test, which begins on 2021-01-01 (got '2021-01-01'); {runs}"
    ]
    assert told(validation_from="2020-02-01", test_from="2020-03-01") == [
        (
            "data.validation_from: there must be interactions between 2020-02-01 and 2020-03-01, the validation "
            f"(got '2020-02-01'); {runs}"
        ),
        f"data.test_from: there must be interactions in the test, which begins on 2020-03-01 (got '2020-03-01'); {runs}",
    ]
    assert told(validation_from="2020-01-09", test_from="2020-01-06") == [
        (
            "data.validation_from: the validation must begin before the test, which begins on 2020-01-06 "
            f"(got '2020-01-09'); {runs}"
        )
    ]
    assert told(validation_from=0.01, test_from=0.5) == [
        (
            "data.validation_from: there must be interactions before the validation, which begins on 2020-01-01 "
            f"(got 0.01); {runs}"
        )
    ]


def test_a_share_of_nearly_all_ends_at_the_last_time(tmp_path):
    (fault,) = faults(tables(tmp_path, split="time", test_from=0.9999999999))
    assert fault.startswith("data.test_from: there must be 2 users in the test who have an item before their target")
    assert "test from then on" in fault
    assert "before 2020-01-10, test" in fault, "the last time of all"


def test_too_few_users_of_a_period_are_told(tmp_path):
    assert faults(tables(tmp_path, split="time", validation_from="2020-01-03", test_from="2020-01-10")) == [
        (
            "data.validation_from: there must be 2 users with two items before 2020-01-03, to train on; there are none; "
            "move the periods, now training before 2020-01-03, validation from then to before 2020-01-10, test from then on"
        ),
        (
            "data.test_from: there must be 2 users in the test who have an item before their target; there is 1; "
            "move the periods, now training before 2020-01-03, validation from then to before 2020-01-10, test from then on"
        ),
    ]


def test_timestamps_that_say_nothing_are_told(tmp_path):
    once = ", ".join(f"u{u} {item} 5" for u in range(4) for item in "abcd")
    assert faults(tables(tmp_path, once, **TIME)) == [
        "data.split: a split by time needs timestamps that differ; all 16 are 2020-01-05 (got 'time'); take leave_one_out"
    ]
    assert faults(tables(tmp_path, kind="days", **TIME)) == [
        (
            "data.validation_from: a date needs timestamps that count from 1970; these run from 1 to 10 (got '2020-01-06'); "
            "give a share, such as 0.8, or one of the timestamps"
        ),
        (
            "data.test_from: a date needs timestamps that count from 1970; these run from 1 to 10 (got '2020-01-09'); "
            "give a share, such as 0.8, or one of the timestamps"
        ),
    ]


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"validation_from": 0.5}, "validation_from must be left out without split: time"),
        ({"test_from": "2020-01-01"}, "test_from must be left out without split: time"),
        (
            {"split": "time", "validation_from": 0.9, "test_from": 0.8},
            "validation_from must be below test_from, which is 0.8",
        ),
        (
            {"split": "time", "validation_from": 0.95},
            "validation_from must be below test_from, which is 0.9; it is 0.95",
        ),
        ({"split": "time", "validation_from": "spring"}, "must be a share between 0 and 1, a date such as 2018-06-30"),
        ({"split": "time", "validation_from": True}, "must be a share between 0 and 1, a date such as 2018-06-30"),
        ({"split": "time", "validation_from": [1]}, "must be a share between 0 and 1, a date such as 2018-06-30"),
        ({"split": "weekly"}, "'leave_one_out' or 'time'"),
    ],
)
def test_settings_that_contradict_each_other_are_faults(settings, rule):
    with pytest.raises(ValidationError, match=rule) as told:
        DemoData(**settings)
    assert len(told.value.errors()) == 1


# Fingerprints


def test_a_split_by_time_has_a_fingerprint_of_its_own_and_those_of_before_stay(tmp_path):
    assert load(DemoData(users=120)).fingerprint.startswith("0e1201a88467")
    assert load(DemoData(users=120, candidate_mode="retrieval", evaluation_users=100)).fingerprint.startswith(
        "72de6b9b08c1"
    )
    before = load(tables(tmp_path)).fingerprint
    by_time = load(tables(tmp_path, **TIME)).fingerprint
    assert len({before, by_time, load(tables(tmp_path, **SHARES)).fingerprint}) == 3
    later = load(tables(tmp_path, DAYS.replace("u1 d 9", "u1 d 8"), **TIME))
    assert [s.tolist() for s in later.sequences] == [s.tolist() for s in load(tables(tmp_path)).sequences]
    assert later.fingerprint != by_time, "d of u1 validates now"


def test_leave_one_out_refuses_what_would_leak():
    def of(*sequences: list[int]) -> Interactions:
        users = [f"u{i}" for i in range(len(sequences))]
        arrays = [np.array(s, dtype=np.int32) for s in sequences]
        return Interactions(users, list("abcd"), list("abcd"), arrays, [], "")

    with pytest.raises(InputError, match=r"u1: an item must occur once .* \(got 'b'\)"):
        split(of([0, 1, 2], [1, 0, 3, 1]))
    with pytest.raises(InputError, match="u0: a user must have 3 interactions"):
        split(of([0, 1], [1, 0, 3]))
