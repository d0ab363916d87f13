"""Amazon's files of three years, small and of the published formats: what is read, left out, and refused."""

from __future__ import annotations

import gzip
import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from reranker.data.interactions import Removal, build_interactions
from reranker.data.sources import amazon as amazon_files
from reranker.data.sources import load
from reranker.data_config import AmazonData
from reranker.errors import EnvironmentFault, InputError

# who rated what, with how many stars, when
RATINGS = [("A2SUAM1J3GNN3B", f"B00000000{item}", 5 - item, 1_300_000_000 + 10 * item) for item in range(4)]
TITLES = ["Lamp", "Tent &amp; pegs", "Stove", "Rope"]


def old_review(user: str, item: str, stars: float, time: int, **more: object) -> dict[str, Any]:
    return {
        "reviewerID": user, "asin": item, "reviewText": "It\nglows", "overall": float(stars), "unixReviewTime": time, **more,
    }  # fmt: skip


REVIEWS: dict[int, list[dict[str, Any]]] = {
    2014: [old_review(*row, helpful=[0, 1]) for row in RATINGS],
    2018: [old_review(*row, verified=True, style={"Size:": " 9"}) for row in RATINGS],
    2023: [
        {"rating": float(stars), "title": "Glows", "asin": "B0000VARIA", "parent_asin": item, "user_id": user,
         "timestamp": 1000 * time + 7, "verified_purchase": True}
        for user, item, stars, time in RATINGS
    ],
}  # fmt: skip
METADATA: dict[int, list[dict[str, Any]]] = {
    2014: [
        {"asin": item, "title": title, "imUrl": "http://x", "brand": "Fjord", "categories": [["Sport", "Light"], ["Sport", "Night"]]}
        for (_, item, *_), title in zip(RATINGS, TITLES, strict=True)
    ],
    2018: [
        {"asin": item, "title": title, "also_buy": [], "brand": "Fjord", "category": ["Sport", "<b>Light</b>"], "main_cat": "Sports"}
        for (_, item, *_), title in zip(RATINGS, TITLES, strict=True)
    ],
    2023: [
        {"parent_asin": item, "title": title, "store": "Fjord Shop", "main_category": "Sports", "categories": ["Sport", "Light"],
         "details": {"Brand": "Fjord"}, "price": 9.5}
        for (_, item, *_), title in zip(RATINGS, TITLES, strict=True)
    ],
}  # fmt: skip
YEARS = (2014, 2018, 2023)


def as_lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def as_csv(year: int) -> str:
    rows = [(item, user, *rest) if year == 2018 else (user, item, *rest) for user, item, *rest in RATINGS]
    if year == 2023:
        rows = [(user, item, stars, 1000 * time) for user, item, stars, time in RATINGS]
    head = "user_id,parent_asin,rating,timestamp\n" if year == 2023 else ""
    return head + "".join(",".join(map(str, row)) + "\n" for row in rows)


@pytest.fixture
def amazon(tmp_path):
    """A configuration of files with this content; None: the year's usual one."""

    def config(
        year: int, reviews: str | bytes | None = None, metadata: str | bytes | None = None, **values
    ) -> AmazonData:
        paths = {}
        usual = {"reviews": as_lines(REVIEWS[year]), "metadata": as_lines(METADATA[year])}
        for name, content in (("reviews", reviews), ("metadata", metadata)):
            content = usual[name] if content is None else content
            paths[name] = tmp_path / f"{name}.json"
            paths[name].write_bytes(content if isinstance(content, bytes) else content.encode())
        return AmazonData.model_validate({"year": year, "min_user": 3, "min_item": 1, **paths, **values})

    return config


def faults(config: AmazonData) -> list[str]:
    """The message's lines, with the files by their names alone."""
    with pytest.raises(InputError) as caught:
        load(config)
    return str(caught.value).replace(f"{config.metadata.parent}/", "").splitlines()


@pytest.mark.parametrize("year", YEARS)
@pytest.mark.parametrize("kind", ["json", "csv", "json.gz", "csv.gz"])
def test_each_year_s_files_become_the_same_sequences(amazon, year, kind):
    text = as_csv(year) if "csv" in kind else as_lines(REVIEWS[year])
    content = gzip.compress(text.encode()) if "gz" in kind else text
    data = load(amazon(year, content))
    assert data.user_ids == ["A2SUAM1J3GNN3B"]
    assert data.item_ids == [item for _, item, *_ in RATINGS]
    assert data.item_texts == ["Lamp", "Tent & pegs", "Stove", "Rope"]
    assert data.sequences[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("year", "text"),
    [
        (2014, "Lamp | Fjord | Sport, Light, Night"),
        (2018, "Lamp | Fjord | Sport, Light | Sports"),
        (2023, "Lamp | Fjord | Sport, Light | Sports | 9.5"),
    ],
)
def test_a_template_names_the_fields_of_all_years_alike(amazon, year, text):
    template = "{title} | {brand} | {category} | {main_category} | {price} | {features}"
    assert load(amazon(year, item_text=template)).item_texts[0] == text


def test_the_metadata_of_2014_are_python_dictionaries(amazon):
    lines = "".join(f"{record}\n" for record in METADATA[2014])
    assert lines.startswith("{'asin'")
    assert load(amazon(2014, metadata=lines)).item_texts[0] == "Lamp"


def test_the_reviews_of_2014_may_be_python_dictionaries(amazon):
    lines = "".join(f"{record}\n" for record in REVIEWS[2014])
    assert load(amazon(2014, lines)).fingerprint == load(amazon(2014)).fingerprint


@pytest.mark.parametrize("year", YEARS)
def test_json_that_begins_with_blanks_or_is_one_list_is_read_as_json(amazon, year):
    """And not as a CSV, whose fields it would lack."""
    lines = "".join(f" {json.dumps(record)}\n" for record in REVIEWS[year])
    assert load(amazon(year, lines)).fingerprint == load(amazon(year)).fingerprint
    first, second, *_ = faults(amazon(year, json.dumps(REVIEWS[year])))
    assert "(got '1 of 1')" in first
    assert second.startswith("reviews.json:1: a line must hold one whole JSON object")


def test_low_ratings_are_no_interactions(amazon):
    data = load(amazon(2018, min_rating=3))
    assert data.item_texts == ["Lamp", "Tent & pegs", "Stove"]
    assert Removal("min_rating", 1, 0, 1) in data.removed


def test_products_without_a_title_are_left_out_and_counted(amazon):
    records = [{**METADATA[2018][0], "title": "var aPageStart = getTime();"}, *METADATA[2018][1:]]
    data = load(amazon(2018, metadata=as_lines(records)))
    assert data.item_texts == ["Tent & pegs", "Stove", "Rope"]
    assert data.removed[0] == Removal("items without a text", 1, 0, 1)


def test_a_title_that_is_no_number_in_python_is_none(amazon):
    records = [{**METADATA[2018][0], "title": float("nan")}, *METADATA[2018][1:]]
    data = load(amazon(2018, metadata=as_lines(records)))
    assert data.item_texts == ["Tent & pegs", "Stove", "Rope"]
    assert data.removed[0] == Removal("items without a text", 1, 0, 1)


def test_half_a_letter_is_replaced_in_a_title_and_makes_an_id_a_malformed_line(amazon):
    records = [{**METADATA[2018][0], "title": "Lamp \ud83d\ude00 \ud83d"}, *METADATA[2018][1:]]
    reviews = [*REVIEWS[2018], {**REVIEWS[2018][0], "reviewerID": "A\ud83d"}]
    data = load(amazon(2018, as_lines(reviews), as_lines(records), most_malformed=0.2))
    assert "Lamp 😀 \N{REPLACEMENT CHARACTER}" in data.item_texts
    step = "malformed lines of reviews.json (line 5: reviewerID: the text must be UTF-8 (got 'A\\ud83d'))"
    assert data.removed[0] == Removal(step, 1, 0, 0)


def test_metadata_of_other_products_are_refused(amazon):
    others = as_lines([{**record, "asin": f"X{record['asin'][1:]}"} for record in METADATA[2018]])
    assert faults(amazon(2018, metadata=others)) == [
        "metadata.json: the items of at least half of the interactions must have a text (got '0 of 4'); do both belong "
        + "together? The interactions are in reviews.json"
    ]


def test_the_same_product_twice_is_taken_once_and_another_text_of_it_is_malformed(amazon):
    again = METADATA[2018] + METADATA[2018]
    assert (
        load(amazon(2018, metadata=as_lines(again), most_malformed=0)).removed[0].step == "items without interactions"
    )
    different = [*METADATA[2018], {**METADATA[2018][1], "title": "Lamp"}]
    data = load(amazon(2018, metadata=as_lines(different), most_malformed=0.5))
    assert data.item_texts[1] == "Tent & pegs"
    assert data.removed[0] == Removal(
        "malformed lines of metadata.json (line 5: asin: an item must have one text only (got 'B000000001'); an earlier line "
        "has 'Tent & pegs')",
        *(0, 0, 1),
    )


BROKEN = [
    "{",
    "[1]",
    json.dumps(old_review("", "B000000000", 5, 1_300_000_000)),
    json.dumps(old_review("A2SUAM1J3GNN3B", "B000000000", 6, 1_300_000_000)),
    json.dumps(old_review("A2SUAM1J3GNN3B", "B000000000", 5, 1_500_000_000_000)),
    json.dumps({"reviewerID": "A2SUAM1J3GNN3B", "overall": True}),
]


def test_every_malformed_line_is_told_with_its_field_and_rule(amazon):
    reviews = as_lines(REVIEWS[2018]) + "\n" + "\n".join(BROKEN) + "\n"
    time = "a time must be seconds since 1970, from 1995 to 2018"
    assert faults(amazon(2018, reviews)) == [
        "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '6 of 10')",
        "reviews.json:6: a line must hold one whole JSON object (got '{')",
        "reviews.json:7: a line must hold one whole JSON object (got '[1]')",
        "reviews.json:8: reviewerID: an id must be given, as text or a whole number (got '')",
        "reviews.json:9: overall: a rating must be from 1 to 5 (got 6.0)",
        f"reviews.json:10: unixReviewTime: {time} (got 1500000000000)",
        "reviews.json:11: asin: an id must be given, as text or a whole number",
        "reviews.json:11: overall: a rating must be from 1 to 5 (got True)",
        f"reviews.json:11: unixReviewTime: {time}",
    ]


def test_the_faults_of_both_files_are_told_at_once(amazon):
    lines = faults(amazon(2018, "{\n" + as_lines(REVIEWS[2018]), as_lines(METADATA[2018]) + "}\n"))
    assert [line.split(": ")[0] for line in lines] == [
        "reviews.json",
        "reviews.json:1",
        "metadata.json",
        "metadata.json:5",
    ]


def test_few_malformed_lines_are_left_out_named_and_counted(amazon):
    data = load(amazon(2018, as_lines(REVIEWS[2018]) + "\n".join(BROKEN), most_malformed=0.6))
    assert len(data.item_ids) == 4
    removal = data.removed[0]
    assert removal.rows == 6
    assert removal.step == (
        "malformed lines of reviews.json (line 5: a line must hold one whole JSON object (got '{'); line 6: a line must hold one "
        "whole JSON object (got '[1]'); line 7: reviewerID: an id must be given, as text or a whole number (got ''); …)"
    )


def test_a_long_value_is_cut_in_its_fault(amazon):
    assert faults(amazon(2018, "x" * 5000))[1:] == [
        f"reviews.json:1: a line must have 4 fields: asin, reviewerID, overall, unixReviewTime (got '{'x' * 80}…')"
    ]


def test_a_file_of_another_kind_is_given_up_after_a_thousand_lines(amazon):
    lines = faults(amazon(2018, "{\n" * 5000))
    assert lines[0].endswith("(got '1,000 of 1,000')")
    assert len(lines) == 21


def test_text_that_is_not_utf8_is_a_malformed_line(amazon):
    lines = faults(amazon(2018, as_lines(REVIEWS[2018]).encode().replace(b"glows", b"gl\xf6ws", 1)))
    assert lines[1].startswith("reviews.json:1: the text must be UTF-8; found b'")


@pytest.mark.parametrize(("said", "given"), permutations(YEARS, 2))
@pytest.mark.parametrize("kind", ["json", "csv"])
def test_files_of_another_year_are_refused_both_at_once(amazon, said, given, kind):
    reviews = as_csv(given) if kind == "csv" else as_lines(REVIEWS[given])
    lines = faults(amazon(said, reviews, as_lines(METADATA[given])))
    assert [line.split(";")[0] for line in lines] == [
        f"{name}.json:1: data.year: the file must be of the year {said}, as data.year says (got {said})"
        for name in ("reviews", "metadata")
    ]
    assert f"this is one of {given}: say data.year: {given}, or get the file of {said} from https://" in lines[0]


def test_absent_files_are_told_with_the_place_to_get_them(tmp_path):
    config = AmazonData(year=2023, reviews=tmp_path / "r.jsonl.gz", metadata=tmp_path / "m.jsonl.gz")
    lines = faults(config)
    assert [line.split(":")[0] for line in lines] == ["r.jsonl.gz", "m.jsonl.gz"]
    assert lines[0].endswith(
        "fetch it from https://amazon-reviews-2023.github.io/ (see the publisher's page, which says what to cite)"
    )


def test_a_download_that_was_cut_short_is_refused(amazon):
    packed = gzip.compress("".join(as_lines(REVIEWS[2018]) for _ in range(200)).encode())
    (line,) = faults(amazon(2018, packed[: len(packed) // 2]))
    assert "the file must be a whole gzip; Compressed file ended" in line


def test_an_empty_file_is_refused(amazon):
    assert faults(amazon(2018, "\n", "")) == [
        "reviews.json: the file must hold at least one line",
        "metadata.json: the file must hold at least one line",
    ]


def test_a_file_that_may_not_be_read_is_the_machine_s_fault(amazon, monkeypatch):
    config = amazon(2018)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(EnvironmentFault, match=r"reviews.json: no permission"):
        load(config)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"year": 2020}, "2014, 2018 or 2023"),
        ({"year": 2018, "min_rating": 6.0}, "less than or equal to 5"),
        ({"year": 2018, "item_text": "{titel}"}, "items have no field 'titel': did you mean 'title'?"),
    ],
)
def test_settings_that_no_release_has_are_refused(values, rule):
    with pytest.raises(ValidationError) as caught:
        AmazonData.model_validate({"reviews": "r", "metadata": "m", **values})
    assert rule in str(caught.value)


def test_streamed_rows_are_filtered_and_hashed_like_a_table_of_text(amazon):
    lines = "".join(
        as_lines([{**record, "reviewerID": f"A{user}SUAM1J3GNN3"} for record in REVIEWS[2018]]) for user in "291"
    )
    config = amazon(2018, lines)
    imported = amazon_files.read(config)
    as_text = imported.interactions.astype({"user_id": "str", "item_id": "str"})
    expected = build_interactions(as_text, imported.items, config)
    assert load(config).fingerprint == expected.fingerprint
    assert load(config).user_ids == ["A1SUAM1J3GNN3", "A2SUAM1J3GNN3", "A9SUAM1J3GNN3"]
