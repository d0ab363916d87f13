"""Yelp's reviews and businesses, and files like them: what is read, and what is refused."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from pydantic import ValidationError

from reranker.data.interactions import Removal
from reranker.data.sources import load
from reranker.data_config import YelpData
from reranker.errors import InputError

REVIEWS = [
    {"review_id": f"r{item}", "user_id": "mh_-eMZ6K5RLWhZyISBhwA", "business_id": item, "stars": stars, "useful": 0, "text": "Good\nfood", "date": date}
    for item, stars, date in [
        ("b2", 5.0, "2018-07-07 22:09:11"), ("b1", 4.0, "2018-07-07 22:09:10"), ("b3", 2.0, "2019-01-01"), ("b4", 3, "2020-02-29T00:00:00Z"),
    ]
]  # fmt: skip
BUSINESSES: list[dict[str, Any]] = [
    {"business_id": f"b{number}", "name": name, "city": "Tucson", "stars": 4.5, "categories": kinds, "attributes": None}
    for number, (name, kinds) in enumerate(
        [("Taco Place", "Mexican, Food"), ("Book Nook", "Shopping, Books"), ("Gym", None), ("Bar", "Nightlife")], 1
    )
]


def as_lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def yelp(tmp_path):
    def config(reviews: str | bytes | None = None, businesses: str | None = None, **values) -> YelpData:
        content = as_lines(REVIEWS) if reviews is None else reviews
        (tmp_path / "review.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        (tmp_path / "business.json").write_text(as_lines(BUSINESSES) if businesses is None else businesses)
        paths = {"reviews": tmp_path / "review.json", "businesses": tmp_path / "business.json"}
        return YelpData.model_validate({"min_user": 3, "min_item": 1, **paths, **values})

    return config


def faults(config: YelpData) -> list[str]:
    """The message's lines, with the files by their names alone."""
    with pytest.raises(InputError) as caught:
        load(config)
    return str(caught.value).replace(f"{config.reviews.parent}/", "").splitlines()


def test_reviews_become_sequences_by_time(yelp):
    data = load(yelp())
    assert data.item_texts == ["Taco Place", "Book Nook", "Gym", "Bar"]
    assert data.sequences[0].tolist() == [0, 1, 2, 3]
    assert load(yelp(gzip.compress(as_lines(REVIEWS).encode()))).fingerprint == data.fingerprint


def test_a_template_is_made_of_any_fields_of_a_business(yelp):
    texts = load(yelp(item_text="{name} | {categories:1} | {city} | {attributes}")).item_texts
    assert texts == [
        "Taco Place | Mexican | Tucson",
        "Book Nook | Shopping | Tucson",
        "Gym | Tucson",
        "Bar | Nightlife | Tucson",
    ]


def test_low_ratings_are_no_interactions(yelp):
    assert Removal("min_rating", 1, 0, 1) in load(yelp(min_rating=3.0)).removed


def test_files_of_the_same_kind_may_have_other_names_times_and_ratings(yelp):
    reviews = [{"who": 7, "recipe": number, "grade": 10 * number, "at": 40 - number} for number in range(1, 5)]
    recipes = [{"recipe": number, "title": f"Dish {number}"} for number in range(1, 5)]
    names = {"user_field": "who", "item_field": "recipe", "rating_field": "grade", "time_field": "at"}
    data = load(
        yelp(
            as_lines(reviews), as_lines(recipes), item_text="{title}", lowest_rating=10.0, highest_rating=40.0, **names
        )
    )
    assert data.user_ids == ["7"]
    assert data.item_texts == ["Dish 1", "Dish 2", "Dish 3", "Dish 4"]
    assert data.sequences[0].tolist() == [3, 2, 1, 0]


def test_missing_fields_of_both_files_are_told_at_once(yelp):
    assert faults(yelp(user_field="user", item_text="{nam} | {city}")) == [
        "review.json:1: user: the records must have this field; did you mean 'user_id'?",
        "business.json:1: nam: the records must have this field; did you mean 'name'?",
    ]


def test_malformed_lines_are_told_with_their_field_and_rule(yelp):
    broken = [{**REVIEWS[0], "stars": 0}, {**REVIEWS[0], "date": "last week"}, {**REVIEWS[0], "user_id": None}]
    assert faults(yelp(as_lines(REVIEWS) + as_lines(broken))) == [
        "review.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '3 of 7')",
        "review.json:5: stars: a rating must be from 1 to 5 (got 0)",
        "review.json:6: date: a time must be an ISO date, as most of the first ones are (got 'last week')",
        "review.json:7: user_id: an id must be given, as text or a whole number",
    ]


@pytest.mark.parametrize(
    ("times", "fault"),
    [
        (["2018-07-07", "2018-07-08", "2018-07-09", 1_500_000_000], "4: date: a time must be an ISO date, as most of the first ones are (got 1500000000)"),
        ([3, "4", 2.5, "2018-07-07"], "4: date: a time must be a number, as most of the first ones are (got '2018-07-07')"),
        ([1_500_000_000, 1_500_000_001, 1_500_000_002_000, 0], "3: date: times must be of one unit: most are seconds since 1970, this is in milliseconds (got 1500000002000); 1 of 4 are in another unit"),
    ],
)  # fmt: skip
def test_times_in_which_a_file_would_have_no_order_are_refused(yelp, times, fault):
    reviews = [{**review, "date": time} for review, time in zip(REVIEWS, times, strict=True)]
    assert f"review.json:{fault}" in faults(yelp(as_lines(reviews)))


def test_dates_may_be_written_in_several_ways(yelp):
    times = ["2018-07-07T10:00:00Z", "20180706", "2018-07-07 11:00:00+02:00", "2018-W28-1"]
    reviews = [{**review, "date": time} for review, time in zip(REVIEWS, times, strict=True)]
    data = load(yelp(as_lines(reviews)))
    assert [data.item_ids[item] for item in data.sequences[0]] == ["b1", "b3", "b2", "b4"]


def test_absent_files_are_told_with_the_place_to_get_them(tmp_path):
    lines = faults(YelpData(reviews=tmp_path / "review.json", businesses=tmp_path / "business.json"))
    assert [line.split(":")[0] for line in lines] == ["review.json", "business.json"]
    assert "https://www.yelp.com/dataset (Yelp's Dataset User Agreement)" in lines[0]


def test_ratings_need_a_range(yelp):
    with pytest.raises(ValidationError, match="lowest_rating must be at most highest_rating"):
        yelp(lowest_rating=6.0)
