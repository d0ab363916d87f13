import hashlib
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from reranker.data.sources import load, movielens, tables
from reranker.data_config import MovieLensData, TablesData
from reranker.errors import EnvironmentFault, InputError

ARCHIVE = Path(__file__).parents[2].parent / "shared" / "data" / "ml-latest-small.zip"
HEADER = "user_id,item_id,timestamp\n"
GOOD = HEADER + "007,a,3\n007,b,1\n007,c,2\n"
TEXTS = "item_id,text\na,Apple\nb,Bread\nc,Cheese\n"


@pytest.fixture
def write(tmp_path):
    def write(interactions: str | Path = GOOD, items: str | bytes | Path = TEXTS, **values) -> TablesData:
        paths = {}
        for table, content in (("interactions", interactions), ("items", items)):
            paths[table] = content if isinstance(content, Path) else tmp_path / f"{table}.csv"
            if not isinstance(content, Path):
                paths[table].write_bytes(content if isinstance(content, bytes) else content.encode())
        return TablesData(**{**paths, "min_user": 3, "min_item": 1, **values})

    return write


def faults(config: TablesData) -> list[str]:
    """The message's lines, with the files by their names alone."""
    with pytest.raises(InputError) as caught:
        tables.read(config)
    return str(caught.value).replace(f"{config.items.parent}/", "").splitlines()


def test_tables_become_sequences(write):
    data = load(write())
    assert data.user_ids == ["007"], "an id is text: its zeros stay"
    assert data.item_texts == ["Apple", "Bread", "Cheese"]
    assert data.sequences[0].tolist() == [1, 2, 0]


def test_parquet_and_dates_give_the_same_data(write, tmp_path):
    dates = GOOD.replace(",3\n", ",2020-03-01\n").replace(",1\n", ",2020-01-31T10:00:00+02:00\n")
    dates = dates.replace(",2\n", ",2020-01-31 08:00:01Z\n")
    expected = load(write())
    assert load(write(dates)).fingerprint == expected.fingerprint
    stamps = pd.to_datetime(["2020-03-01", "2020-01-31", "2020-02-01"])
    for times in ([3, 1, 2], [3.5, 1.0, 2.0], stamps, stamps.tz_localize("Asia/Tokyo"), ["3", "1", "2"]):
        frame = pd.DataFrame({"user_id": "007", "item_id": list("abc"), "timestamp": times, "extra": 1})
        frame.to_parquet(tmp_path / "i.parquet")
        pd.DataFrame({"item_id": list("abc"), "text": ["Apple", "Bread", "Cheese"]}).astype(
            {"item_id": "category"}
        ).to_parquet(tmp_path / "t.parquet")
        config = TablesData(interactions=tmp_path / "i.parquet", items=tmp_path / "t.parquet", min_user=3, min_item=1)
        assert load(config).fingerprint == expected.fingerprint


def test_dates_keep_their_last_digit(write, tmp_path):
    """Seconds since 1970 that were taken for nanoseconds on their way here: an hour is 3.6 microseconds of them."""
    clicks = [("b", 1_600_000_300), ("c", 1_600_000_000), ("a", 1_600_000_900)]
    frame = pd.DataFrame([("u", *click) for click in clicks], columns=["user_id", "item_id", "timestamp"])
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], unit="ns")
    frame.to_parquet(tmp_path / "i.parquet")
    for interactions in (tmp_path / "i.parquet", frame.to_csv(index=False)):
        assert load(write(interactions)).sequences[0].tolist() == [2, 1, 0]


def test_large_epoch_numbers_keep_their_last_digit(write):
    rows = "".join(f"u,{item},160000000000000000{digit}\n" for item, digit in zip("abc", "201", strict=True))
    assert load(write(HEADER + rows)).sequences[0].tolist() == [1, 2, 0]


def test_whole_numbers_are_ids_in_parquet(write, tmp_path):
    frame = pd.DataFrame({"user_id": [7, 7, 7], "item_id": [10, 9, 8], "timestamp": [1, 2, 3]})
    frame.to_parquet(tmp_path / "i.parquet")
    config = write(items="item_id,text\n8,x\n9,y\n10,z\n", interactions=tmp_path / "i.parquet")
    data = load(config)
    assert (data.user_ids, data.item_ids, data.sequences[0].tolist()) == (["7"], ["10", "8", "9"], [0, 2, 1])


def test_quoting_bom_crlf_blank_lines_and_other_columns(write):
    items = '\ufeffnote,text,item_id\r\n"1, 2","Apple, ""red""",a\r\n\r\n,"Bread\r\nand butter",b\r\nNA,NA,c\r\n'
    data = load(write(items=items))
    assert data.item_texts == ['Apple, "red"', "Bread\r\nand butter", "NA"]


def test_every_bad_row_is_reported_with_its_line(write):
    interactions = (
        "user_id,item_id,timestamp,rating\n"
        "u,a,1,5\n"  # 2
        ",a,1,5\n"
        "u, ,1,5\n"
        "u,a,soon,5\n"  # 5
        "u,a,1,good\n"
        "u,a,1,inf\n"
        "u,a,now,\n"
        "u,a,inf,3\n"
    )
    items = "item_id,text\na,Apple\nb,\na,Apple again\n,Cheese\n"
    assert faults(write(interactions, items)) == [
        "interactions.csv:3: user_id: must not be empty (got '')",
        "interactions.csv:4: item_id: must not be empty (got ' ')",
        "interactions.csv:5: timestamp: a timestamp must be a number or an ISO date (got 'soon')",
        "interactions.csv:6: rating: a rating must be a finite number (got 'good')",
        "interactions.csv:7: rating: a rating must be a finite number (got 'inf')",
        "interactions.csv:8: timestamp: a timestamp must be a number or an ISO date (got 'now')",
        "interactions.csv:8: rating: a rating must be a finite number (got '')",
        "interactions.csv:9: timestamp: a timestamp must be a number or an ISO date (got 'inf')",
        "items.csv:3: text: must not be empty (got '')",
        "items.csv:4: item_id: an item must have one row only (got 'a')",
        "items.csv:5: item_id: must not be empty (got '')",
    ]


def test_lines_stay_right_after_fields_with_line_breaks(write):
    items = 'item_id,text\na,"Apple\n\nred"\n\nb\nc,"Cheese\n",x\nd,\n'
    assert faults(write(items=items)) == [
        "items.csv:6: a row must have 2 fields (got 1)",
        "items.csv:7: a row must have 2 fields (got 3)",
        "items.csv:9: text: must not be empty (got '')",
    ]


def test_a_quote_that_is_never_closed_swallows_no_rows(write):
    at_the_end = 'item_id,text\na,Apple\nb,"Bread\nc,Cheese\n'
    assert faults(write(items=at_the_end))[0].startswith("items.csv:3: quotes must be closed")
    until_the_next = 'item_id,text\na,"Apple\nb,"Bread"\nc,Cheese\n'
    assert faults(write(items=until_the_next))[0].startswith("items.csv:2: quotes must be closed")


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ('b,"Bread" the loaf', "',' expected after '\"'"),
        ('"b"1,Bread', "',' expected after '\"'"),
        ('b,"Bread, cut sh', "unexpected end of data"),
    ],
)
def test_a_quote_out_of_place_is_told_wherever_it_stands(write, row, hint):
    """Also where each line is a record: no quote is taken out of a text without a word."""
    items = f"item_id,text\na,Apple\nc,Cheese\n{row}"
    message = f"items.csv:4: quotes must be closed, and doubled within a quoted field; {hint}"
    assert faults(write(items=items)) == [message]


def test_text_that_is_not_utf8_is_reported(write):
    items = TEXTS.replace("Bread", "Br\xf6d").encode("latin-1")
    assert faults(write(items=items)) == [r"items.csv:3: the text must be UTF-8; found b'bBr\xf6d'"]


def test_a_mixture_of_numbers_and_dates_is_refused(write):
    assert faults(write(HEADER + "u,a,1\nu,b,2020-01-01\nu,c,3\n")) == [
        "interactions.csv:3: timestamp: timestamps must be of one kind: most are numbers, this is a date (got '2020-01-01')"
    ]
    assert faults(write(HEADER + "u,a,1\nu,b,2020-01-01\nu,c,2020-01-01\n")) == [
        "interactions.csv:2: timestamp: timestamps must be of one kind: most are ISO dates, this is a number (got '1')"
    ]


def test_a_mixture_of_seconds_and_milliseconds_is_refused(write):
    times = [1_700_000_000_000, 1_700_000_000, 1_700_000_001_000, 0]
    rows = "".join(f"u,{item},{time}\n" for item, time in zip("abca", times, strict=True))
    assert faults(write(HEADER + rows)) == [
        "interactions.csv:3: timestamp: times must be of one unit: most are milliseconds since 1970, this is in seconds (got '1700000000')"
    ]


@pytest.mark.parametrize(
    "times", [(0, 1_700_000_000, 900_000_000_000, 5_000_000_000), (20180630, 201806301200, 2018063012, 1)]
)
def test_numbers_that_count_something_else_are_taken_as_they_are(write, times):
    rows = "".join(f"u,{item},{time}\n" for item, time in zip("abca", times, strict=True))
    assert tables.read(write(HEADER + rows))[0]["timestamp"].tolist() == list(times)


def test_timestamps_that_a_spreadsheet_has_shortened_would_be_the_same_and_are_refused(write):
    rows = "u,a,1.71717E+12\nu,b,1717171717000\nu,c,2E+12\n"
    rule = "a timestamp must have all its digits: a spreadsheet has shortened this one, and others to the same"
    assert faults(write(HEADER + rows)) == [
        f"interactions.csv:2: timestamp: {rule} (got '1.71717E+12')",
        f"interactions.csv:4: timestamp: {rule} (got '2E+12')",
    ]
    whole = HEADER + "u,a,1.5e+09\nu,b,1.717171717E+09\nu,c,1.717171717171E9\n"
    assert tables.read(write(whole))[0]["timestamp"].tolist() == [1.5e9, 1717171717, 1717171717.171]


def test_ids_that_a_spreadsheet_has_shortened_would_be_one_and_are_refused(write):
    rows = "4.51E+15,a,1\n1e+16,b,2\nE+15,c,3\n12E+15,c,4\n4.51E15,c,4\n"
    rule = "an id must have all its digits: a program has shortened this one, and perhaps others to the same"
    assert faults(write(HEADER + rows, TEXTS + "5E+12,Dates\n")) == [
        f"interactions.csv:2: user_id: {rule} (got '4.51E+15')",
        f"interactions.csv:3: user_id: {rule} (got '1e+16')",
        f"items.csv:5: item_id: {rule} (got '5E+12')",
    ]


def test_an_id_with_and_without_blanks_would_be_two_and_is_refused(write):
    rule = "an id must be written alike in all rows: others have this one without the blanks around it"
    assert faults(write(HEADER + "u,a,1\nu ,b,2\nu,c,3\n", TEXTS + " a,Pear\n")) == [
        f"interactions.csv:3: user_id: {rule} (got 'u ')",
        f"items.csv:5: item_id: {rule} (got ' a')",
    ]
    padded = write(HEADER + "u ,a,1\nu ,b,2\nu ,c,3\n")
    assert load(padded).user_ids == ["u "], "in all rows they do no harm"


def test_an_id_in_two_unicode_forms_would_be_two_and_is_refused(write):
    rule = "an id must be written alike in all rows: others have this one in another Unicode form, which looks the same"
    one, other = "Ame\u0301lie", "Am\u00e9lie"
    assert faults(write(HEADER + f"{other},a,1\n{one},b,2\n{other},c,3\n")) == [
        f"interactions.csv:3: user_id: {rule} (got {one!r})"
    ]
    decomposed = write(HEADER + f"{one},a,1\n{one},b,2\n{one},c,3\n")
    assert load(decomposed).user_ids == [one], "in all rows it does no harm"


def test_the_first_twenty_of_a_file_are_shown_and_all_counted(write):
    with pytest.raises(InputError) as caught:
        tables.read(write(HEADER + "u,,x\n" * 500))
    assert caught.value.total == 1000
    assert [fault.line for fault in caught.value.faults] == [line for line in range(2, 12) for _ in range(2)]
    assert str(caught.value).endswith("… and 980 more like these")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "items.csv: the file must not be empty"),
        ("\n \n", "items.csv: the file must not be empty"),
        ("item_id,text\n", "items.csv: the file must hold at least one row"),
        ("item,text\na,Apple\n", "items.csv:1: item_id: the file must have this column; did you mean 'item'?"),
        (
            "item_id;text\na;Apple\n",
            "items.csv:1: the fields of a line must be separated by commas (got 'item_id;text'); these are by ';'",
        ),
        (
            TEXTS.encode("utf-16"),
            "items.csv:1: the first line must hold the names of the columns, in UTF-8; it is UTF-16: save it as UTF-8",
        ),
        (b"\0" * 200_000, "items.csv:1: the first line must hold the names of the columns, in UTF-8"),
        ("item_id,text,text\na,b,c\n", "items.csv:1: text: a column must occur once"),
    ],
)
def test_unfit_files(write, content, message):
    assert faults(write(items=content))[0] == message


def test_missing_files_and_other_kinds_are_reported_together(write, tmp_path):
    (tmp_path / "items.xlsx").write_bytes(b"x")
    lines = faults(write(interactions=tmp_path / "absent.csv", items=tmp_path / "items.xlsx"))
    assert lines == [
        "absent.csv: the file must exist; looked for absent.csv",
        "items.xlsx: the file's name must end in .csv or .parquet (got 'items.xlsx')",
    ]


def test_parquet_faults_name_the_row(write, tmp_path):
    frame = pd.DataFrame({"user_id": ["u", None, "u"], "item_id": ["a", "b", "c"], "timestamp": [1.0, 2.0, None]})
    frame.to_parquet(tmp_path / "i.parquet")
    assert faults(write(interactions=tmp_path / "i.parquet")) == [
        "i.parquet:2: user_id: must not be empty (got '')",
        "i.parquet:3: timestamp: a timestamp must be a number or an ISO date (got nan)",
    ]
    frame.assign(user_id=[1.5, 2.0, 3.0]).to_parquet(tmp_path / "i.parquet")
    assert faults(write(interactions=tmp_path / "i.parquet"))[0] == (
        "i.parquet: user_id: the column must hold text or whole numbers (got 'double')"
    )
    (tmp_path / "i.parquet").write_bytes(b"PAR1 cut short")
    assert faults(write(interactions=tmp_path / "i.parquet"))[0].startswith(
        "i.parquet: the file must be readable as Parquet"
    )


def test_a_rating_filter_needs_ratings(write):
    assert faults(write(min_rating=3.0)) == ["interactions.csv: data.min_rating: needs a column 'rating' (got 3.0)"]
    rated = "user_id,item_id,timestamp,rating\nu,a,1,3\nu,b,2,4\nu,c,3,5\nv,a,1,2\n"
    assert load(write(rated, min_rating=3.0)).user_ids == ["u"]


def test_items_without_a_text_name_the_items_file(write):
    with pytest.raises(InputError, match=r"items.csv: item_id: every item .* must have a text \(got 'c'\)"):
        load(write(items="item_id,text\na,Apple\nb,Bread\n"))


@pytest.mark.parametrize("ids", [[1.5, 2.0, 3.0], [True, False, True], [[1], [2], [3]], pd.to_datetime(["2020"] * 3)])
def test_parquet_items_whose_ids_are_no_ids_are_refused(write, tmp_path, ids):
    pd.DataFrame({"item_id": ids, "text": list("abc")}).to_parquet(tmp_path / "t.parquet")
    (line,) = faults(write(items=tmp_path / "t.parquet"))
    assert line.startswith("t.parquet: item_id: the column must hold text or whole numbers (got '")


def test_parquet_texts_that_are_no_text_are_refused(write, tmp_path):
    for values in ([1, 2, 3], [b"a", b"b", b"c"], [1.5, None, 2.0]):
        pd.DataFrame({"item_id": list("abc"), "text": values}).to_parquet(tmp_path / "t.parquet")
        (line,) = faults(write(items=tmp_path / "t.parquet"))
        assert line.startswith("t.parquet: text: the column must hold text (got '")


def test_parquet_text_that_is_no_utf8_is_refused(write, tmp_path):
    broken = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xff", b"c"]).buffers())
    pq.write_table(pa.table({"item_id": ["a", "b", "c"], "text": broken}), tmp_path / "t.parquet")
    (line,) = faults(write(items=tmp_path / "t.parquet"))
    assert line.startswith("t.parquet: the file must be readable as Parquet")


def test_a_parquet_file_that_claims_more_rows_than_any_table_has_is_refused_unread(write, tmp_path, monkeypatch):
    monkeypatch.setenv("RERANKER_MOST_TABLE_ROWS", "2")
    monkeypatch.setattr(pq, "read_table", lambda *_, **__: pytest.fail("was read"))
    pd.DataFrame({"item_id": list("abc"), "text": list("abc")}).to_parquet(tmp_path / "t.parquet")
    assert faults(write(items=tmp_path / "t.parquet")) == [
        "t.parquet: a table must have at most 2 rows (got 3); the variable RERANKER_MOST_TABLE_ROWS raises that"
    ]


@pytest.mark.parametrize("inner", ["", "\n", "\r\n"])
def test_a_title_of_any_length_is_taken_with_and_without_line_breaks(write, inner):
    title = f"{'x' * 150_000}{inner}{'y' * 150_000}"
    assert load(write(items=TEXTS.replace("Bread", f'"{title}"'))).item_texts[1] == title


def test_nul_characters_are_reported_with_their_line(write):
    assert faults(write(GOOD.replace("007,b", "0\x007,b"), TEXTS.replace("Bread", "Br\0ead"))) == [
        "interactions.csv:3: user_id: must hold no NUL character (got '0\\x007')",
        "items.csv:3: text: must hold no NUL character (got 'Br\\x00ead')",
    ]
    assert faults(write(items="\0".join(TEXTS)))[0] == (
        "items.csv:1: the first line must hold the names of the columns, in UTF-8"
    )


@pytest.mark.parametrize("name", ["a\0b.csv", "x" * 256 + ".csv", ""])
def test_paths_that_no_file_has_are_refused_with_the_configuration(name):
    with pytest.raises(ValidationError, match="a path"):
        TablesData(interactions=name, items=Path("items.csv"))
    with pytest.raises(ValidationError, match="a path"):
        MovieLensData(path=name)


def test_a_leading_tilde_is_the_home_folder(write, tmp_path, monkeypatch):
    config = write()
    monkeypatch.setenv("HOME", str(tmp_path))
    given = {"interactions": "~/interactions.csv", "items": "~/items.csv", "min_user": 3, "min_item": 1}
    assert TablesData.model_validate(given) == config


# MovieLens

MOVIES = {"1": "Matrix, The (1999)", "2": "Ami\xe9, L' (1995)", "3": "Se7en (1995)"}
RATINGS = [("9", "1", 5, 30), ("9", "2", 4, 10), ("9", "3", 3, 20)]


def small(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = "".join(f"{u},{m},{r},{t}\n" for u, m, r, t in RATINGS)
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    rows = "".join(f'{m},"{title}",Drama\n' for m, title in MOVIES.items())
    (folder / "movies.csv").write_text("movieId,title,genres\n" + rows, encoding="utf-8")


def one_million(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "ratings.dat").write_text("".join(f"{u}::{m}::{r}::{t}\n" for u, m, r, t in RATINGS))
    rows = "".join(f"{m}::{title}::Drama|War\n" for m, title in MOVIES.items())
    (folder / "movies.dat").write_text(rows, encoding="latin-1")


def hundred_thousand(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "u.data").write_text("".join(f"{u}\t{m}\t{r}\t{t}\n" for u, m, r, t in RATINGS))
    rows = "".join(f"{m}|{title}|01-Jan-1995||http://x|{'|'.join('0' * 19)}\n" for m, title in MOVIES.items())
    (folder / "u.item").write_text(rows + "\n", encoding="latin-1")


def zipped(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.iterdir()):
            file.write(path, f"{folder.name}/{path.name}")


@pytest.mark.parametrize("layout", [small, one_million, hundred_thousand])
@pytest.mark.parametrize("place", ["folder", "parent", "zip"])
def test_every_movielens_layout(tmp_path, layout, place):
    layout(tmp_path / "parent" / "ml")
    zipped(tmp_path / "parent" / "ml", tmp_path / "ml.zip")
    path = tmp_path / {"folder": "parent/ml", "parent": "parent", "zip": "ml.zip"}[place]
    data = load(MovieLensData(path=path, min_user=3, min_item=1))
    assert data.user_ids == ["9"]
    assert data.item_texts == ["The Matrix (1999)", "L'Ami\xe9 (1995)", "Se7en (1995)"]
    assert data.sequences[0].tolist() == [1, 2, 0]
    with pytest.raises(InputError, match="min_rating: 2 interactions"):
        load(MovieLensData(path=path, min_user=3, min_item=1, min_rating=4.5))


@pytest.mark.parametrize(("layout", "genres"), [(small, "Drama"), (one_million, "Drama, War"), (hundred_thousand, "")])
def test_movielens_texts_are_made_of_title_genres_and_year(tmp_path, layout, genres):
    layout(tmp_path / "ml")
    data = load(MovieLensData(path=tmp_path / "ml", min_user=3, min_item=1, item_text="{title} | {genres} | {year}"))
    between = f" | {genres} | " if genres else " | "
    assert data.item_texts == [f"The Matrix{between}1999", f"L'Ami\xe9{between}1995", f"Se7en{between}1995"]


def test_a_movie_without_the_template_s_fields_is_told_by_them(tmp_path):
    hundred_thousand(tmp_path / "ml")  # without a genre
    with pytest.raises(InputError) as caught:
        load(MovieLensData(path=tmp_path / "ml", min_user=3, min_item=1, item_text="{genres}"))
    assert [(fault.line, fault.field, fault.rule) for fault in caught.value.faults] == [
        (line, "genres", "must not be empty") for line in (1, 2, 3)
    ]


def test_the_flags_of_the_oldest_movielens_are_genres(tmp_path):
    hundred_thousand(tmp_path / "ml")
    items = tmp_path / "ml" / "u.item"
    flags = ["0"] * 19
    flags[5] = flags[18] = "1"
    items.write_bytes(items.read_bytes().replace("|".join("0" * 19).encode(), "|".join(flags).encode(), 1))
    data = load(MovieLensData(path=tmp_path / "ml", min_user=3, min_item=1, item_text="{title:1} | {genres}"))
    assert data.item_texts == ["The | Comedy, Western", "L'Ami\xe9", "Se7en"]


@pytest.mark.parametrize(
    ("given", "readable"),
    [
        ("City of Lost Children, The (Cité des enfants perdus, La) (1995)", "The City of Lost Children (La Cité des enfants perdus) (1995)"),
        ("Good, the Bad and the Ugly, The (1966)", "The Good, the Bad and the Ugly (1966)"),
        ("Avventura, L' (Adventure, The) (1960)", "L'Avventura (The Adventure) (1960)"),
        ("Seven (a.k.a. Se7en) (1995)", "Seven (a.k.a. Se7en) (1995)"),
        ("House (a.k.a. Dark Angel, The) (1990)", "House (a.k.a. The Dark Angel) (1990)"),
        ("Girl, Interrupted (1999)", "Girl, Interrupted (1999)"),
        ("Few Good Men, A", "A Few Good Men"),
        ("I, Robot (2004) ", "I, Robot (2004)"),
    ],
)  # fmt: skip
def test_titles_read_as_people_say_them(given, readable):
    assert movielens.readable_title(given) == readable


def test_movielens_faults_name_the_file_and_its_columns(tmp_path):
    small(tmp_path / "ml")
    path = tmp_path / "ml" / "ratings.csv"
    path.write_text(path.read_text().replace("9,2,4,10", "9,,4,x"))
    with pytest.raises(InputError) as caught:
        load(MovieLensData(path=tmp_path / "ml"))
    assert str(caught.value).replace(f"{tmp_path}/", "").splitlines() == [
        "ml/ratings.csv:3: movieId: must not be empty (got '')",
        "ml/ratings.csv:3: timestamp: a timestamp must be a number or an ISO date (got 'x')",
    ]


def test_unfit_movielens_places(tmp_path):
    with pytest.raises(InputError, match="the MovieLens folder or zip must exist"):
        load(MovieLensData(path=tmp_path / "absent"))
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(InputError, match="must be a whole zip"):
        load(MovieLensData(path=tmp_path / "cut.zip"))
    with pytest.raises(InputError, match=r"must hold ratings.csv and movies.csv or ratings.dat"):
        load(MovieLensData(path=tmp_path))


def test_of_several_movielens_releases_none_is_taken_silently(tmp_path):
    for layout, name in ((small, "ml-20m"), (small, "ml-25m"), (one_million, "ml-1m")):
        layout(tmp_path / "data" / name)
    rule = r"data.path: a MovieLens folder or zip must hold one release, and this has ml-1m, ml-20m, ml-25m; name the folder"
    with pytest.raises(InputError, match=rule):
        load(MovieLensData(path=tmp_path / "data"))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in sorted((tmp_path / "data").glob("*/*")):
            archive.write(file, file.relative_to(tmp_path / "data"))
    with pytest.raises(InputError, match=rule):
        load(MovieLensData(path=tmp_path / "all.zip"))
    assert load(MovieLensData(path=tmp_path / "data" / "ml-1m", min_user=3, min_item=1)).user_ids == ["9"]


def test_a_movielens_release_has_both_files_in_one_folder(tmp_path):
    small(tmp_path / "ml" / "a")
    small(tmp_path / "ml" / "b")
    (tmp_path / "ml" / "a" / "movies.csv").unlink()
    (tmp_path / "ml" / "b" / "ratings.csv").unlink()
    with pytest.raises(InputError, match=r"must hold ratings.csv and movies.csv or ratings.dat"):
        load(MovieLensData(path=tmp_path / "ml"))


def altered(tmp_path: Path, of_ratings: dict[int, bytes]) -> Path:
    """A zip whose directory claims something else of ratings.csv: bytes by their place in its entry."""
    small(tmp_path / "ml")
    zipped(tmp_path / "ml", tmp_path / "ml.zip")
    content = bytearray((tmp_path / "ml.zip").read_bytes())
    central = content.rindex(b"PK\1\2")
    assert content[central + 46 :].startswith(b"ml/ratings.csv")
    for place, value in of_ratings.items():
        content[central + place : central + place + len(value)] = value
    (tmp_path / "ml.zip").write_bytes(content)
    return tmp_path / "ml.zip"


@pytest.mark.parametrize(
    ("claims", "message"),
    {
        "encrypted": ({8: b"\1\0"}, "ml/ratings.csv: a zip must not be encrypted; unpack it and name the folder"),
        "method": ({10: b"\x62\0"}, "this one is packed by method 98; unpack it and name the folder"),
        "size": ({24: (3 << 30).to_bytes(4, "little")}, "a zip's file must have at most 100 times its packed bytes"),
        "checksum": ({16: b"abcd"}, "the file must be a whole zip"),
    }.values(),
)
def test_a_zip_that_is_encrypted_odd_or_a_bomb_is_refused_unread(tmp_path, claims, message):
    with pytest.raises(InputError) as caught:
        load(MovieLensData(path=altered(tmp_path, claims)))
    assert str(caught.value).startswith(f"{tmp_path}/ml.zip: ")
    assert message in str(caught.value)


def test_a_zip_bomb_is_never_unpacked(tmp_path, monkeypatch):
    small(tmp_path / "ml")
    with zipfile.ZipFile(tmp_path / "ml.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "ml" / "movies.csv", "movies.csv")
        archive.writestr("ratings.csv", b"\0" * 20_000_000)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("was unpacked"))
    with pytest.raises(InputError, match=r"ratings.csv: a zip's file must have at most 100 times .* \(got 20000000\)"):
        load(MovieLensData(path=tmp_path / "ml.zip"))


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No MovieLens in any known place, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RERANKER_DATA", str(tmp_path / "own"))
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(movielens, "_PROJECT", tmp_path / "project")
    monkeypatch.setattr(movielens, "ADDRESS", (tmp_path / "published.zip").as_uri())
    return tmp_path


def test_what_is_missing_without_a_network_is_said(nowhere):
    with pytest.raises(EnvironmentFault) as caught:
        load(MovieLensData())
    for part in ("own", "data", "project/data", "cache", "published.zip", "data.path"):
        assert part in str(caught.value)


def test_movielens_is_fetched_once_and_checked(nowhere, monkeypatch):
    small(nowhere / "made" / "ml-latest-small")
    published = nowhere / "published.zip"
    zipped(nowhere / "made" / "ml-latest-small", published)
    with pytest.raises(EnvironmentFault, match=r"its SHA-256 is .* and not 696d65a3"):
        movielens.find_small()
    assert not (nowhere / "cache").exists()
    monkeypatch.setattr(movielens, "SHA256", hashlib.sha256(published.read_bytes()).hexdigest())
    fetched = movielens.find_small()
    assert fetched == nowhere / "cache" / "ml-latest-small.zip"
    assert [path.name for path in (nowhere / "cache").iterdir()] == ["ml-latest-small.zip"]
    published.unlink()
    assert load(MovieLensData(min_user=3, min_item=1)).user_ids == ["9"]


def test_known_places_come_before_the_network_and_are_checked(nowhere):
    (nowhere / "own").mkdir()
    (nowhere / "own" / "ml-latest-small.zip").write_bytes(b"another")
    with pytest.raises(InputError, match="must be the published one"):
        movielens.find_small()
    (nowhere / "own" / "ml-latest-small.zip").unlink()
    small(nowhere / "data" / "ml-latest-small")
    assert movielens.find_small() == Path("data/ml-latest-small")


@pytest.mark.parametrize(
    ("release", "name", "layout"),
    [
        ("ml-100k", "ml-100k", hundred_thousand),
        ("ml-1m", "ml-1m", one_million),
        ("ml-10m", "ml-10M100K", one_million),
        ("ml-20m", "ml-20m", small),
        ("ml-25m", "ml-25m", small),
        ("ml-32m", "ml-32m", small),
    ],
)
def test_a_release_is_found_in_a_known_place_unpacked_or_not(nowhere, monkeypatch, release, name, layout):
    monkeypatch.setitem(movielens.RATINGS, release, len(RATINGS))
    config = MovieLensData.model_validate({"release": release, "min_user": 3, "min_item": 1})
    layout(nowhere / "made" / name)
    (nowhere / "own").mkdir()
    zipped(nowhere / "made" / name, nowhere / "own" / f"{release}.zip")
    packed = load(config)
    (nowhere / "own" / f"{release}.zip").unlink()
    layout(nowhere / "data" / name)
    assert load(config).fingerprint == packed.fingerprint
    assert packed.user_ids == ["9"]


def test_an_absent_release_is_told_with_its_address_and_not_fetched(nowhere, monkeypatch):
    monkeypatch.setattr(movielens, "_fetch", lambda *_: pytest.fail("was fetched"))
    with pytest.raises(InputError) as caught:
        load(MovieLensData(release="ml-25m"))
    for part in ("data.release", "'ml-25m'", "movielens/25m/", "as ml-25m.zip", "for research", "/own", "data.path"):
        assert part in str(caught.value)


def test_a_release_that_lacks_ratings_is_refused(nowhere):
    one_million(nowhere / "data" / "ml-1m")
    with pytest.raises(InputError, match=r"ratings.dat: ml-1m must have 1,000,209 ratings \(got 3\); name its place"):
        load(MovieLensData(release="ml-1m"))


def test_a_release_and_a_path_together_are_refused():
    with pytest.raises(ValidationError, match="release must be left out with path"):
        MovieLensData(release="ml-1m", path=Path("ml"))


def test_ratings_that_movielens_has_not_are_told_with_their_lines(tmp_path):
    small(tmp_path / "ml")
    path = tmp_path / "ml" / "ratings.csv"
    path.write_text(path.read_text().replace("9,2,4,10", "9,2,0,10").replace("9,3,3,20", "9,3,5.5,20"))
    with pytest.raises(InputError) as caught:
        load(MovieLensData(path=tmp_path / "ml"))
    assert str(caught.value).replace(f"{tmp_path}/", "").splitlines() == [
        "ml/ratings.csv:3: rating: a rating must be from 0.5 to 5 (got 0.0)",
        "ml/ratings.csv:4: rating: a rating must be from 0.5 to 5 (got 5.5)",
    ]


def test_a_least_rating_of_movielens_needs_ratings(tmp_path):
    (tmp_path / "ratings.csv").write_text("userId,movieId,timestamp\n1,1,1\n1,2,2\n1,3,3\n")
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,One,x\n2,Two,x\n3,Three,x\n")
    config = MovieLensData(path=tmp_path, min_user=3, min_item=1)
    assert load(config).sequences[0].tolist() == [0, 1, 2]
    with pytest.raises(InputError) as caught:
        load(config.model_copy(update={"min_rating": 4.0}))
    message = f"{tmp_path}/ratings.csv: data.min_rating: needs a column 'rating' (got 4.0)"
    assert str(caught.value) == message


@pytest.mark.skipif(not ARCHIVE.exists(), reason="ml-latest-small.zip is not beside the project")
def test_movielens_small_has_its_known_size(nowhere, monkeypatch):
    monkeypatch.setenv("RERANKER_DATA", str(ARCHIVE.parent))
    ratings, movies = movielens.read(MovieLensData())
    assert (len(ratings), ratings["user_id"].nunique(), len(movies)) == (100_836, 610, 9_742)
    data = load(MovieLensData())
    assert (len(data.user_ids), len(data.item_ids), sum(map(len, data.sequences))) == (610, 3_650, 90_274)
