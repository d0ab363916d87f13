"""RecBole's atomic files: what is read of them, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from reranker.data.interactions import Removal
from reranker.data.sources import load
from reranker.data_config import RecBoleData
from reranker.errors import InputError

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "".join(
    f"u\t{item}\t{stars}\t{time}\n" for item, stars, time in [("b", 5, "30.5"), ("a", 4, "10"), ("c", 3.5, "20"), ("d", 2, "40")]
)  # fmt: skip
ITEM = "item_id:token\tmovie_title:token_seq\tclass:token_seq\tyear:float\n" + "".join(
    f"{item}\t{title}\t{kinds}\t{year}\n"
    for item, title, kinds, year in [
        ("a", 'Toy "Story"', "Comedy Animation", 1995),
        ("b", "Heat", "Crime", ""),
        ("c", "Seven", "", 1995),
        ("d", "Ran", "War", 1985),
        ("z", "Nobody saw it", "War", 1985),
    ]
)


@pytest.fixture
def recbole(tmp_path):
    def config(inter: str | bytes = INTER, item: str | bytes | None = ITEM, **values) -> RecBoleData:
        folder = tmp_path / "films"
        folder.mkdir(exist_ok=True)
        for name, content in (("films.inter", inter), ("films.item", item)):
            if content is not None:
                (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return RecBoleData.model_validate({"path": folder, "min_user": 3, "min_item": 1, **values})

    return config


def faults(config: RecBoleData) -> list[str]:
    """The message's lines, with the files by their names alone."""
    with pytest.raises(InputError) as caught:
        load(config)
    return str(caught.value).replace(f"{config.path}/", "").splitlines()


def test_atomic_files_become_sequences_by_time(recbole):
    data = load(recbole())
    assert data.item_texts == ['Toy "Story"', "Heat", "Seven", "Ran"]
    assert data.sequences[0].tolist() == [0, 2, 1, 3]


def test_the_interaction_file_itself_can_be_named_and_both_may_be_packed(recbole):
    config = recbole(gzip.compress(INTER.encode()), gzip.compress(ITEM.encode()))
    assert load(config.model_copy(update={"path": config.path / "films.inter"})).fingerprint == load(config).fingerprint


def test_a_template_is_made_of_the_item_file_s_fields(recbole):
    texts = load(recbole(item_text="{movie_title:1} | {class} | {year}")).item_texts
    assert texts == ["Toy | Comedy Animation | 1995", "Heat | Crime", "Seven | 1995", "Ran | War | 1985"]


def test_low_ratings_are_no_interactions(recbole):
    data = load(recbole(min_rating=3))
    assert Removal("min_rating", 1, 0, 1) in data.removed
    assert data.item_ids == ["a", "b", "c"]


def test_numbers_that_a_spreadsheet_has_shortened_would_be_the_same_and_are_malformed(recbole):
    inter = INTER + "7.65612E+16\ta\t5\t30\nu\t4.51E+15\t5\t30\nu\tz\t5\t1.59E+12\nme+you\ta\t5\t1.5e+09\n"
    shortened = "a program has shortened this one, and perhaps others to the same"
    assert faults(recbole(inter)) == [
        "films.inter: at most 0.01 of the lines may be malformed, see data.most_malformed (got '3 of 8')",
        f"films.inter:6: user_id: an id must have all its digits: {shortened} (got '7.65612E+16')",
        f"films.inter:7: item_id: an id must have all its digits: {shortened} (got '4.51E+15')",
        "films.inter:8: timestamp: a number must have all its digits: a spreadsheet has shortened this one (got '1.59E+12')",
    ]


def test_fields_may_have_other_names(recbole):
    inter = INTER.replace("user_id", "session_id").replace("timestamp", "time")
    assert load(recbole(inter, user_field="session_id", time_field="time")).user_ids == ["u"]


def test_missing_fields_of_both_files_are_told_at_once(recbole):
    config = recbole(
        INTER.replace("timestamp", "times").replace("rating", "x"), item_text="{movie_titel}", min_rating=1.0
    )
    assert faults(config) == [
        "films.inter:1: timestamp: the file must have this field; did you mean 'times'?",
        "films.inter:1: rating: the file must have this field; valid: item_id, times, user_id, x",
        "films.item:1: movie_titel: the file must have this field; did you mean 'movie_title'?",
    ]


def test_an_item_file_without_a_title_asks_for_a_template(recbole):
    assert faults(recbole(item=ITEM.replace("movie_title", "words"))) == [
        "films.item:1: data.item_text: say what an item's text is made of; fields: item_id, words, class, year"
    ]


def test_a_first_line_without_types_is_refused(recbole):
    (line,) = faults(recbole(INTER.replace(":token", "")))
    assert line.startswith("films.inter:1: the first line must name each field with its type, such as item_id:token")


def test_a_field_that_occurs_twice_is_refused(recbole):
    inter = INTER.replace("rating:float", "item_id:token", 1)
    assert faults(recbole(inter)) == ["films.inter:1: item_id: a field must occur once"]


def test_malformed_lines_are_told_with_their_field_and_rule(recbole):
    assert faults(recbole(INTER + "u\ta\n\ta\tgood\tinf\n")) == [
        "films.inter: at most 0.01 of the lines may be malformed, see data.most_malformed (got '2 of 6')",
        "films.inter:6: a line must have 4 fields: user_id, item_id, rating, timestamp (got 'u\\ta')",
        "films.inter:7: user_id: an id must be given, as text or a whole number (got '')",
        "films.inter:7: rating: a rating must be a number (got 'good')",
        "films.inter:7: timestamp: a time must be a number (got 'inf')",
    ]


def test_few_malformed_lines_are_left_out_and_counted(recbole):
    data = load(recbole(INTER + "u\ta\n", most_malformed=0.2))
    assert data.removed[0].rows == 1
    assert data.removed[0].step.startswith("malformed lines of films.inter (line 6: a line must have 4 fields")
    assert data.sequences[0].tolist() == [0, 2, 1, 3]


def test_blank_lines_may_stand_before_the_first_line(recbole):
    data = load(recbole("\n \n" + INTER, "\n" + ITEM))
    assert data.sequences[0].tolist() == load(recbole()).sequences[0].tolist()
    assert not any("malformed" in removal.step for removal in data.removed)


def test_times_in_two_units_are_refused_with_the_first_line_that_differs(recbole):
    inter = INTER.replace("30.5", "1700000000000").replace("10\n", "1700000000\n").replace("20\n", "1700000001\n")
    (line,) = faults(recbole(inter))
    assert line == (
        "films.inter:2: timestamp: times must be of one unit: most are seconds since 1970, this is in milliseconds "
        + "(got '1700000000000'); 1 of 4 are in another unit"
    )


def test_absent_files_are_told_with_the_place_to_get_them(recbole, tmp_path):
    (line,) = faults(recbole(item=None))
    assert line.startswith("films.item: the file must exist; looked for ")
    with pytest.raises(InputError, match=r"must hold one file NAME.inter.* https://recbole.io/dataset_list.html"):
        load(RecBoleData(path=tmp_path / "nowhere"))


def test_of_several_data_sets_in_a_folder_the_one_of_its_name_is_taken(recbole):
    config = recbole()
    (config.path / "others.inter").write_text("")
    assert load(config).user_ids == ["u"]
    (config.path / "films.inter").rename(Path(config.path / "more.inter"))
    with pytest.raises(InputError, match=r"found more.inter, others.inter"):
        load(config)
