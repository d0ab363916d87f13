from collections import Counter

import numpy as np
import pandas as pd
import pytest

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.candidates.candidate_lists import CandidateSampler
from reranker.data.interactions import Interactions, Removal, build_interactions
from reranker.data_config import DemoData, TablesData
from reranker.errors import InputError


def settings(**values) -> TablesData:
    return TablesData(**{"interactions": "i.csv", "items": "t.csv", "min_user": 3, "min_item": 1, **values})


def table(rows: str) -> pd.DataFrame:
    """'u1 a 5, u1 b 6' → interactions; a fourth word is the rating."""
    parts = [row.split() for row in rows.split(",")]
    frame = pd.DataFrame({"user_id": [p[0] for p in parts], "item_id": [p[1] for p in parts]})
    frame["timestamp"] = [int(p[2]) for p in parts]
    if len(parts[0]) > 3:
        frame["rating"] = [float(p[3]) for p in parts]
    return frame


def texts(ids: str) -> pd.DataFrame:
    return pd.DataFrame({"item_id": list(ids), "text": [f"Item {i}" for i in ids]})


def by_id(data: Interactions) -> dict[str, str]:
    return {
        user: "".join(data.item_ids[i] for i in sequence)
        for user, sequence in zip(data.user_ids, data.sequences, strict=True)
    }


ROWS = "u1 c 3, u1 a 1, u1 b 2, u2 b 9, u2 d 8, u2 a 7, u2 c 6"


def test_sequences_are_in_the_order_of_time():
    data = build_interactions(table(ROWS), texts("dcba"), settings())
    assert by_id(data) == {"u1": "abc", "u2": "cadb"}
    assert data.item_ids == ["a", "b", "c", "d"]
    assert data.item_texts == ["Item a", "Item b", "Item c", "Item d"]
    assert {sequence.dtype for sequence in data.sequences} == {np.dtype(np.int32)}


def test_a_rating_that_nobody_gave_is_told_by_its_own_knob():
    rated = table(
        ", ".join(f"u{user} {item} 1 {stars}" for user in range(3) for item, stars in zip("abc", "534", strict=True))
    )
    with pytest.raises(InputError) as caught:
        build_interactions(rated, texts("abc"), settings(min_rating=8))
    message = "data.min_rating: min_rating must leave interactions (got 8.0); the highest rating is 5"
    assert str(caught.value) == message
    assert by_id(build_interactions(rated, texts("abc"), settings(min_rating=3))) != {}


def test_ties_in_time_are_broken_by_seed_and_not_by_the_order_of_the_rows():
    rows = table(", ".join(f"u{u} {item} 1" for u in range(30) for item in "abcd"))
    shuffled = rows.sample(frac=1, random_state=3)
    first, again = (build_interactions(frame, texts("abcd"), settings()) for frame in (rows, shuffled))
    assert by_id(first) == by_id(again)
    assert first.fingerprint == again.fingerprint
    other = build_interactions(rows, texts("abcd"), settings(seed=1))
    assert by_id(first) != by_id(other)
    lasts = Counter(sequence[-1] for sequence in by_id(first).values())
    assert set(lasts) == set("abcd"), "a hash of the item alone would hold out the same item for all users"


@pytest.mark.parametrize(
    ("rows", "tied"),
    {
        "all times differ": (ROWS, 0),
        "the last two of one user": ("u1 a 1, u1 b 2, u1 c 2, u2 a 1, u2 b 2, u2 c 3", 1),
        "the last but one and the one before": ("u1 a 1, u1 b 1, u1 c 2, u2 a 1, u2 b 2, u2 c 3", 1),
        "only earlier ones": ("u1 a 1, u1 b 1, u1 c 2, u1 d 3, u2 a 1, u2 b 2, u2 c 3", 0),
        "the first of the next user": ("u1 a 1, u1 b 2, u1 c 3, u2 a 3, u2 b 4, u2 c 5", 0),
        "everybody": ("u1 a 1, u1 b 1, u1 c 1, u2 a 2, u2 b 2, u2 c 2", 2),
    }.values(),
)
def test_users_whose_last_items_have_one_time_are_counted(rows, tied):
    assert build_interactions(table(rows), texts("abcd"), settings()).tied_users == tied


def test_repeated_rows_keep_the_first_in_time_and_are_counted():
    data = build_interactions(table("u1 a 9, u1 a 1, u1 b 2, u1 c 3, u1 b 7"), texts("abc"), settings())
    assert by_id(data) == {"u1": "abc"}
    assert Removal("repeated (user, item)", 2, 0, 0) in data.removed


def test_an_item_rated_twice_at_one_time_has_the_highest_rating_whatever_the_order_of_the_rows():
    rows = table("u1 a 1 5, u1 b 2 1, u1 b 2 3, u1 b 2 2, u1 c 3 1, u2 a 1 3, u2 b 2 3, u2 c 3 3")
    for frame in (rows, rows[::-1]):
        worths = build_interactions(frame, texts("abc"), settings()).worths
        assert worths is not None
        assert [list(worth) for worth in worths] == [[1, 0.25, 0.0625], [0.25] * 3]


def test_core_is_iterated_until_it_is_stable():
    # d has one user; without it u3 has two items left; without u3, c has one user; without c nothing more falls.
    rows = table("u1 a 1, u1 b 2, u1 e 3, u2 a 1, u2 b 2, u2 e 3, u2 c 4, u3 c 1, u3 a 2, u3 d 3")
    data = build_interactions(rows, texts("abcde"), settings(min_item=2))
    assert by_id(data) == {"u1": "abe", "u2": "abe"}
    assert data.removed[-2:] == [Removal("min_item", 2, 0, 2), Removal("min_user", 2, 1, 0)]
    assert len(rows) - sum(removal.rows for removal in data.removed) == 6


def test_ratings_below_the_least_are_dropped_and_counted():
    rows = table("u1 a 1 5, u1 b 2 4, u1 c 3 3.5, u1 d 4 1, u2 d 1 1, u2 a 2 4")
    data = build_interactions(rows, texts("abcdx"), settings(min_rating=3.5))
    assert by_id(data) == {"u1": "abc"}
    assert data.removed == [
        Removal("items without interactions", 0, 0, 1),
        Removal("min_rating", 2, 0, 1),
        Removal("repeated (user, item)", 0, 0, 0),
        Removal("min_item", 0, 0, 0),
        Removal("min_user", 1, 1, 0),
    ]


def test_items_without_a_text_are_all_named():
    with pytest.raises(InputError) as caught:
        build_interactions(table(ROWS), texts("bd"), settings(), items_file="items.csv")
    assert str(caught.value) == (
        "items.csv: item_id: every item of the interactions must have a text (got 'a'); in 2 rows\n"
        "items.csv: item_id: every item of the interactions must have a text (got 'c'); in 2 rows"
    )


@pytest.mark.parametrize(("given", "known"), [("1.0", "1"), ("1", "1.0"), ("1 ", "1")])
def test_an_item_that_the_other_table_spells_otherwise_is_told_with_that_spelling(given, known):
    """Ids that went through a table with missing ones have become decimals."""
    items = pd.DataFrame({"item_id": [known, "2"], "text": ["One", "Two"]})
    with pytest.raises(InputError) as caught:
        build_interactions(table("u1 2 1").assign(item_id=given), items, settings(item_columns={"item_id": "sku"}))
    assert str(caught.value) == (
        f"sku: every item of the interactions must have a text (got {given!r}); in 1 rows; the items have {known!r}"
    )


@pytest.mark.parametrize(("given", "known"), [("\u00e9", "e\u0301"), ("e\u0301", "\u00e9")])
def test_an_item_that_the_other_table_has_in_another_unicode_form_is_told(given, known):
    items = pd.DataFrame({"item_id": [known, "2"], "text": ["One", "Two"]})
    with pytest.raises(
        InputError, match=r"in 1 rows; the items have it in another Unicode form, which looks the same$"
    ):
        build_interactions(table("u1 2 1").assign(item_id=given), items, settings())


def test_nothing_left_names_the_knobs_and_what_each_removed():
    with pytest.raises(InputError) as caught:
        build_interactions(table(ROWS), texts("abcd"), settings(min_user=5))
    message = str(caught.value)
    assert "min_user=5 and min_item=1" in message
    assert "min_user: 7 interactions, 2 users, 4 items" in message


def test_fingerprint_follows_what_decides_results():
    def fingerprint(rows: str = ROWS, items: pd.DataFrame | None = None, **values) -> str:
        return build_interactions(
            table(rows), texts("abcd") if items is None else items, settings(**values)
        ).fingerprint

    same = fingerprint()
    assert len(same) == 64
    assert fingerprint(interactions="elsewhere/i.csv") == same
    renamed = texts("abcd").assign(text=["Item a", "Item b", "Item c", "Item D"])
    changed = [
        fingerprint(items=renamed),
        fingerprint(ROWS.replace("u2 b 9", "u2 b 1")),
        fingerprint(ROWS.replace("u2", "u3")),
        fingerprint(seed=1),
        fingerprint(evaluation_negatives="popularity"),
        fingerprint(min_user=4),
    ]
    assert len({same, *changed}) == 7


def test_generated_data_has_no_rating_filter():
    data = build_interactions(table(ROWS), texts("abcd"), DemoData(min_user=3))
    assert [removal.step for removal in data.removed] == [
        "items without interactions",
        "repeated (user, item)",
        "min_item",
        "min_user",
    ]


def test_the_plan_tells_what_the_data_leave_open(tmp_path):
    rows = [(f"u{u}", "abcdef"[(u + at) % 6], 5 if u < 2 else at) for u in range(4) for at in range(4)]
    days = pd.DataFrame(rows)
    days.set_axis(["user_id", "item_id", "timestamp"], axis=1).to_csv(tmp_path / "i.csv", index=False)
    titles = pd.DataFrame({"item_id": list("abcdef"), "text": ["Emma", "Emma", "Carrie", "Carrie", "Emma", "Heat"]})
    titles.to_csv(tmp_path / "t.csv", index=False)
    data = RerankingData.prepare(settings(interactions=tmp_path / "i.csv", items=tmp_path / "t.csv"))
    told = data.describe(TrialConfig(candidates=2, collaborative_scores="none"))
    shared = "the last items of 2 of 4 users share a timestamp: data.seed decides which is the test item"
    assert f"\n  {shared}\n  5 of 6 items share their text: no model can tell them apart\n" in told


def test_of_data_that_leave_nothing_open_the_plan_tells_none_of_it(demo):
    told = demo.describe(TrialConfig())
    assert "share a timestamp" not in told
    assert "share their text" not in told


def test_to_be_described_data_need_no_training_lists(demo, monkeypatch):
    monkeypatch.setattr(CandidateSampler, "training_examples", lambda *_: pytest.fail("made them"))
    config = TrialConfig(examples_per_user=2)
    assert "  600 training examples an epoch, 300 lists of 20 to score" in demo.describe(config)
