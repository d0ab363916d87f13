"""Tables of interactions and items that break a rule: what each source's reader says of them."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reranker.command_line.entry_point import last_net
from reranker.data.sources import amazon, mind, movielens, recbole, steam, tables, yelp
from reranker.data_config import (
    AmazonData,
    MindData,
    MovieLensData,
    RecBoleData,
    SteamData,
    TablesData,
    YelpData,
)
from tests.told import Told, table, told_by

Files = dict[str, str | bytes | None]  # what differs from a sound source: a file's content, None: it is absent
HERE = Path()
SOURCES: dict[str, tuple[Callable[[Any], Any], Any, Files]] = {
    "tables": (
        tables.read,
        TablesData(interactions=HERE / "clicks.csv", items=HERE / "items.csv"),
        {"clicks.csv": "user_id,item_id,timestamp\nu,a,1\n", "items.csv": "item_id,text\na,Apple\n"},
    ),
    "parquet": (
        tables.read,
        TablesData(interactions=HERE / "clicks.parquet", items=HERE / "items.csv"),
        {"items.csv": "item_id,text\na,Apple\n"},
    ),
    "movielens": (
        movielens.read,
        MovieLensData(path=HERE / "ml"),
        {
            "ml/ratings.csv": "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n",
            "ml/movies.csv": "movieId,title,genres\n1,Toy Story (1995),Comedy\n",
        },
    ),
    "zip": (movielens.read, MovieLensData(path=HERE / "ml.zip"), {}),
    "amazon": (
        amazon.read,
        AmazonData(year=2018, reviews=HERE / "reviews.json", metadata=HERE / "meta.json"),
        {
            "reviews.json": '{"reviewerID": "A1", "asin": "0000000001", "overall": 5.0, "unixReviewTime": 1300000000}\n',
            "meta.json": '{"asin": "0000000001", "title": "Pen"}\n',
        },
    ),
    "recbole": (
        recbole.read,
        RecBoleData(path=HERE / "x.inter"),
        {
            "x.inter": "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\n",
            "x.item": "item_id:token\ttitle:token_seq\na\tApple\n",
        },
    ),
    "mind": (
        mind.read,
        MindData(path=HERE),
        {
            "behaviors.tsv": "1\tU1\t11/15/2019 8:55:22 AM\tN1\tN1-1 N2-0\n",
            "news.tsv": "N1\tsports\tgolf\tA title\tAn abstract\thttps://x.example\t[]\t[]\n",
        },
    ),
    "steam": (
        steam.read,
        SteamData(reviews=HERE / "reviews.json", games=HERE / "games.json"),
        {
            "reviews.json": "{'username': 'Ann', 'product_id': '7', 'date': '2017-12-17'}\n",
            "games.json": "{'id': '7', 'title': 'Half-Life'}\n",
        },
    ),
    "yelp": (
        yelp.read,
        YelpData(reviews=HERE / "reviews.json", businesses=HERE / "business.json"),
        {
            "reviews.json": '{"user_id": "u", "business_id": "b", "date": "2018-07-07 22:09:11", "stars": 3.0}\n',
            "business.json": '{"business_id": "b", "name": "Cafe"}\n',
        },
    ),
}  # fmt: skip


def answer(source: str, files: Files, **fields: Any) -> Told:
    reader, config, sound = SOURCES[source]
    for name, content in {**sound, **files}.items():
        if content is not None:
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())

    @last_net
    def main(argv: list[str] | None = None) -> int:
        reader(config.model_copy(update=fields))
        return 0

    return told_by(main)


@pytest.mark.parametrize("source", [name for name in SOURCES if name not in ("parquet", "zip")])
def test_a_sound_source_is_read(source):
    """Or no case would tell what is wrong with it."""
    with pytest.raises(AssertionError, match="it was not refused"):
        answer(source, {})


def clicks(rows: str, header: str = "user_id,item_id,timestamp") -> Files:
    return {"clicks.csv": f"{header}\n{rows}\n"}


def items(rows: str, header: str = "item_id,text") -> Files:
    return {"items.csv": f"{header}\n{rows}\n"}


def parquet(**columns: Any) -> Files:
    """The table of interactions as Parquet, in which these columns differ."""
    sound = {"user_id": ["u"], "item_id": ["a"], "timestamp": [1]}
    buffer = io.BytesIO()
    pq.write_table(pa.table({k: v for k, v in {**sound, **columns}.items() if v is not None}), buffer)
    return {"clicks.parquet": buffer.getvalue()}


def zipped(members: dict[str, str | bytes], **altered: Any) -> Files:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", altered.get("compression", zipfile.ZIP_DEFLATED)) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return {"ml.zip": buffer.getvalue()}


ML = {f"ml/{Path(name).name}": content for name, content in SOURCES["movielens"][2].items() if content is not None}
WHOLE = zipped(ML)["ml.zip"]
assert isinstance(WHOLE, bytes)
CLICKS_PARQUET = parquet()["clicks.parquet"]
assert isinstance(CLICKS_PARQUET, bytes)
NEST = "[" * 5000


CSV_CASES = {
    "no interactions": ("tables", {"clicks.csv": None}, "clicks.csv: the file must exist; looked for HERE/clicks.csv"),
    "no items": ("tables", {"items.csv": None}, "items.csv: the file must exist; looked for HERE/items.csv"),
    "neither": ("tables", {"clicks.csv": None, "items.csv": None}, "clicks.csv: the file must exist; looked for HERE/clicks.csv\nitems.csv: the file must exist; looked for HERE/items.csv"),
    "nothing": ("tables", {"clicks.csv": ""}, "clicks.csv: the file must not be empty"),
    "spaces": ("tables", {"clicks.csv": "  \n \n"}, "clicks.csv: the file must not be empty"),
    "a byte order mark alone": ("tables", {"clicks.csv": b"\xef\xbb\xbf"}, "clicks.csv: the file must not be empty"),
    "a header alone": ("tables", {"clicks.csv": "user_id,item_id,timestamp\n"}, "clicks.csv: the file must hold at least one row"),
    "a header without a line break": ("tables", {"clicks.csv": "user_id,item_id,timestamp"}, "clicks.csv: the file must hold at least one row"),
    "no header": ("tables", {"clicks.csv": "u,a,1\n"}, "clicks.csv:1: user_id: the file must have this column; valid: 1, a, u\nclicks.csv:1: item_id: the file must have this column; valid: 1, a, u\nclicks.csv:1: timestamp: the file must have this column; valid: 1, a, u"),
    "semicolons": ("tables", {"clicks.csv": "user_id;item_id;timestamp\nu;a;1\n"}, "clicks.csv:1: the fields of a line must be separated by commas (got 'user_id;item_id;timestamp'); these are by ';'"),
    "tabs": ("tables", {"clicks.csv": "user_id\titem_id\ttimestamp\nu\ta\t1\n"}, "clicks.csv:1: the fields of a line must be separated by commas (got 'user_id\\titem_id\\ttimestamp'); these are by '\\t'"),
    "names in capitals": ("tables", clicks("u,a,1", "USER_ID,ITEM_ID,TIMESTAMP"), "clicks.csv:1: user_id: the file must have this column; valid: ITEM_ID, TIMESTAMP, USER_ID\nclicks.csv:1: item_id: the file must have this column; valid: ITEM_ID, TIMESTAMP, USER_ID\nclicks.csv:1: timestamp: the file must have this column; valid: ITEM_ID, TIMESTAMP, USER_ID"),
    "names with spaces": ("tables", clicks("u,a,1", "user_id, item_id, timestamp"), "clicks.csv:1: item_id: the file must have this column; did you mean ' item_id'?\nclicks.csv:1: timestamp: the file must have this column; did you mean ' timestamp'?"),
    "a name misspelt": ("tables", clicks("u,a,1", "user_id,item_id,timestmap"), "clicks.csv:1: timestamp: the file must have this column; did you mean 'timestmap'?"),
    "a column twice": ("tables", clicks("u,a,1,1", "user_id,item_id,timestamp,timestamp"), "clicks.csv:1: timestamp: a column must occur once"),
    "an empty header": ("tables", {"clicks.csv": "\nu,a,1\n"}, "clicks.csv:1: the first line must hold the names of the columns, in UTF-8"),
    "UTF-16": ("tables", {"clicks.csv": "user_id,item_id,timestamp\nu,a,1\n".encode("utf-16")}, "clicks.csv:1: the first line must hold the names of the columns, in UTF-8; it is UTF-16: save it as UTF-8"),
    "Latin-1": ("tables", {"items.csv": "item_id,text\na,Café\n".encode("latin-1")}, "items.csv:2: the text must be UTF-8; found b'aCaf\\xe9'"),
    "a NUL character in a name": ("tables", clicks("u,a,1", "user_id,item_id,time\0stamp"), "clicks.csv:1: the first line must hold the names of the columns, in UTF-8"),
    "a NUL character in an id": ("tables", clicks("u\0,a,1"), "clicks.csv:2: user_id: must hold no NUL character (got 'u\\x00')"),
    "a NUL character in a text": ("tables", items("a,Ap\0ple"), "items.csv:2: text: must hold no NUL character (got 'Ap\\x00ple')"),
    "a gzip": ("tables", {"clicks.csv": gzip.compress(b"user_id,item_id,timestamp\nu,a,1\n", mtime=0)}, "clicks.csv:1: the first line must hold the names of the columns, in UTF-8; it is packed by gzip: unpack it"),
    "a PNG": ("tables", {"clicks.csv": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"}, "clicks.csv:1: the first line must hold the names of the columns, in UTF-8; it is an image"),
    "HTML": ("tables", {"clicks.csv": "<!DOCTYPE html>\n<html><title>404</title></html>\n"}, "clicks.csv:1: the first line must hold the names of the columns; it is a web page: what was to be fetched is not there, or asks for a login"),
    "a pointer of Git LFS": ("tables", {"clicks.csv": "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n"}, "clicks.csv:1: the first line must hold the names of the columns; it is a pointer of Git LFS: git lfs pull fetches the file"),
    "JSON": ("tables", {"clicks.csv": '[{"user_id": "u", "item_id": "a", "timestamp": 1}]'}, 'clicks.csv:1: user_id: the file must have this column; did you mean \'[{"user_id": "u"\'?\nclicks.csv:1: item_id: the file must have this column; did you mean \' "item_id": "a"\'?\nclicks.csv:1: timestamp: the file must have this column; did you mean \' "timestamp": 1}]\'?'),
    "a field too few": ("tables", clicks("u,a"), "clicks.csv:2: a row must have 3 fields (got 2)"),
    "a field too many": ("tables", clicks("u,a,1,2"), "clicks.csv:2: a row must have 3 fields (got 4)"),
    "a quote that is not closed": ("tables", clicks('"u,a,1'), "clicks.csv:2: quotes must be closed, and doubled within a quoted field; unexpected end of data"),
    "an empty user": ("tables", clicks(",a,1"), "clicks.csv:2: user_id: must not be empty (got '')"),
    "a user of spaces": ("tables", clicks("  ,a,1"), "clicks.csv:2: user_id: must not be empty (got '  ')"),
    "an empty item": ("tables", clicks("u,,1"), "clicks.csv:2: item_id: must not be empty (got '')"),
    "an empty time": ("tables", clicks("u,a,"), "clicks.csv:2: timestamp: a timestamp must be a number or an ISO date (got '')"),
    "a time in words": ("tables", clicks("u,a,yesterday"), "clicks.csv:2: timestamp: a timestamp must be a number or an ISO date (got 'yesterday')"),
    "a time that is now": ("tables", clicks("u,a,now"), "clicks.csv:2: timestamp: a timestamp must be a number or an ISO date (got 'now')"),
    "a time that is no number": ("tables", clicks("u,a,nan"), "clicks.csv:2: timestamp: a timestamp must be a number or an ISO date (got 'nan')"),
    "a time without end": ("tables", clicks("u,a,inf"), "clicks.csv:2: timestamp: a timestamp must be a number or an ISO date (got 'inf')"),
    "a time too large for a number": ("tables", clicks("u,a,1e999"), "clicks.csv:2: timestamp: a timestamp must be a number or an ISO date (got '1e999')"),
    "a date of a month that is none": ("tables", clicks("u,a,2020-13-01"), "clicks.csv:2: timestamp: a timestamp must be a number or an ISO date (got '2020-13-01')"),
    "a date as Americans write it": ("tables", clicks("u,a,12/31/2020"), "clicks.csv:2: timestamp: a timestamp must be a number or an ISO date (got '12/31/2020')"),
    "a date beyond the calendar": ("tables", clicks("u,a,99999-01-01"), "clicks.csv:2: timestamp: a timestamp must be a number or an ISO date (got '99999-01-01')"),
    "dates and numbers": ("tables", clicks("u,a,1\nu,a,2\nu,b,2020-01-01"), "clicks.csv:4: timestamp: timestamps must be of one kind: most are numbers, this is a date (got '2020-01-01')"),
    "a rating in words": ("tables", clicks("u,a,1,good", "user_id,item_id,timestamp,rating"), "clicks.csv:2: rating: a rating must be a finite number (got 'good')"),
    "a rating without end": ("tables", clicks("u,a,1,-inf", "user_id,item_id,timestamp,rating"), "clicks.csv:2: rating: a rating must be a finite number (got '-inf')"),
    "an empty rating": ("tables", clicks("u,a,1,", "user_id,item_id,timestamp,rating"), "clicks.csv:2: rating: a rating must be a finite number (got '')"),
    "an item twice": ("tables", items("a,Apple\na,Pear"), "items.csv:3: item_id: an item must have one row only (got 'a')"),
    "an item without a text": ("tables", items("a,"), "items.csv:2: text: must not be empty (got '')"),
    "items without a column of texts": ("tables", items("a,Apple", "item_id,title"), "items.csv:1: text: the file must have this column; valid: item_id, title"),
    "many faults": ("tables", clicks("\n".join(f"u,a,x{i}" for i in range(30))), "clicks.csv:2: timestamp: a timestamp must be a number or an ISO date (got 'x0')\nclicks.csv:3: timestamp: a timestamp must be a number or an ISO date (got 'x1')\nclicks.csv:4: timestamp: a timestamp must be a number or an ISO date (got 'x2')\nclicks.csv:5: timestamp: a timestamp must be a number or an ISO date (got 'x3')\nclicks.csv:6: timestamp: a timestamp must be a number or an ISO date (got 'x4')\nclicks.csv:7: timestamp: a timestamp must be a number or an ISO date (got 'x5')\nclicks.csv:8: timestamp: a timestamp must be a number or an ISO date (got 'x6')\nclicks.csv:9: timestamp: a timestamp must be a number or an ISO date (got 'x7')\nclicks.csv:10: timestamp: a timestamp must be a number or an ISO date (got 'x8')\nclicks.csv:11: timestamp: a timestamp must be a number or an ISO date (got 'x9')\nclicks.csv:12: timestamp: a timestamp must be a number or an ISO date (got 'x10')\nclicks.csv:13: timestamp: a timestamp must be a number or an ISO date (got 'x11')\nclicks.csv:14: timestamp: a timestamp must be a number or an ISO date (got 'x12')\nclicks.csv:15: timestamp: a timestamp must be a number or an ISO date (got 'x13')\nclicks.csv:16: timestamp: a timestamp must be a number or an ISO date (got 'x14')\nclicks.csv:17: timestamp: a timestamp must be a number or an ISO date (got 'x15')\nclicks.csv:18: timestamp: a timestamp must be a number or an ISO date (got 'x16')\nclicks.csv:19: timestamp: a timestamp must be a number or an ISO date (got 'x17')\nclicks.csv:20: timestamp: a timestamp must be a number or an ISO date (got 'x18')\nclicks.csv:21: timestamp: a timestamp must be a number or an ISO date (got 'x19')\n… and 10 more like these"),
    "a folder in the place of a file": ("tables", {"clicks.csv": None, "clicks.csv/x": ""}, "clicks.csv: the file must exist; looked for HERE/clicks.csv"),
}  # fmt: skip
OTHER_CASES = {
    "another ending": ("tables", {}, {"interactions": HERE / "clicks.xlsx"}, "clicks.xlsx: the file must exist; looked for HERE/clicks.xlsx"),
    "an ending that is there": ("tables", {"clicks.tsv": "user_id\titem_id\ttimestamp\nu\ta\t1\n"}, {"interactions": HERE / "clicks.tsv"}, "clicks.tsv: the file's name must end in .csv or .parquet (got 'clicks.tsv')"),
    "a rating that no column has": ("tables", {}, {"min_rating": 3.0}, "clicks.csv: data.min_rating: needs a column 'rating' (got 3.0)"),
    "a template of a column that is not there": ("tables", {}, {"item_text": "{titel}"}, "items.csv:1: titel: the file must have this column; valid: item_id, text"),
    "a release that is not here": ("movielens", {}, {"path": None, "release": "ml-1m"}, "data.release: the release must be on this machine (got 'ml-1m'); fetch it from https://grouplens.org/datasets/movielens/1m/ (for research, with citation; not to be passed on or used commercially without permission) as ml-1m.zip and put it into one of these folders: HERE/data, CHECKOUT/data, HERE/cache; or name its place as data.path"),
    "a rating that a review lacks": ("recbole", {}, {"min_rating": 3.0}, "x.inter:1: rating: the file must have this field; valid: item_id, timestamp, user_id"),
    "a field that an item lacks": ("recbole", {}, {"item_text": "{brand}"}, "x.item:1: brand: the file must have this field; valid: item_id, title"),
    "a field that a business lacks": ("yelp", {}, {"item_text": "{brand}"}, "business.json:1: brand: the records must have this field; valid: business_id, name"),
    "a field that a review lacks": ("yelp", {}, {"time_field": "when"}, "reviews.json:1: when: the records must have this field; valid: business_id, date, stars, user_id"),
    "reviews of another year": ("amazon", {}, {"year": 2023}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: user_id: an id must be given, as text or a whole number\nreviews.json:1: parent_asin: an id must be given, as text or a whole number\nreviews.json:1: rating: a rating must be from 1 to 5\nreviews.json:1: timestamp: a time must be milliseconds since 1970, from 1995 to 2023\nmeta.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nmeta.json:1: parent_asin: an id must be given, as text or a whole number"),
}  # fmt: skip
PARQUET_CASES = {
    "nothing": ("parquet", {"clicks.parquet": b""}, "clicks.parquet: the file must be readable as Parquet; Parquet file size is 0 bytes"),
    "CSV": ("parquet", {"clicks.parquet": b"user_id,item_id,timestamp\nu,a,1\n"}, "clicks.parquet: the file must be readable as Parquet; Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file."),
    "its first half": ("parquet", {"clicks.parquet": CLICKS_PARQUET[: len(CLICKS_PARQUET) // 2]}, "clicks.parquet: the file must be readable as Parquet; Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file."),
    "without its last byte": ("parquet", {"clicks.parquet": CLICKS_PARQUET[:-1]}, "clicks.parquet: the file must be readable as Parquet; Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file."),
    "a footer that is too long": ("parquet", {"clicks.parquet": CLICKS_PARQUET[:-8] + b"\xff\xff\xff\x7fPAR1"}, "clicks.parquet: the file must be readable as Parquet; Parquet file size is 956 bytes, smaller than the size reported by footer's (2147483647bytes)"),
    "a footer of garbage": ("parquet", {"clicks.parquet": b"PAR1" + b"\xab" * 64 + b"\x40\0\0\0PAR1"}, "clicks.parquet: the file must be readable as Parquet; Couldn't deserialize thrift: Variable-length int over 10 bytes."),
    "an encrypted footer": ("parquet", {"clicks.parquet": CLICKS_PARQUET[:-4] + b"PARE"}, "clicks.parquet: the file must be readable as Parquet; Could not read encrypted metadata, no decryption found in reader's properties"),
    "no rows": ("parquet", parquet(user_id=pa.array([], pa.string()), item_id=pa.array([], pa.string()), timestamp=pa.array([], pa.int64())), "clicks.parquet: the file must hold at least one row"),
    "a column too few": ("parquet", parquet(timestamp=None), "clicks.parquet: timestamp: the file must have this column; valid: item_id, user_id"),
    "users that are fractions": ("parquet", parquet(user_id=[1.5]), "clicks.parquet: user_id: the column must hold text or whole numbers (got 'double')"),
    "users that are lists": ("parquet", parquet(user_id=[["u"]]), "clicks.parquet: user_id: the column must hold text or whole numbers (got 'list<element: string>')"),
    "users that are bytes": ("parquet", parquet(user_id=[b"u"]), "clicks.parquet: user_id: the column must hold text or whole numbers (got 'binary')"),
    "users that are null": ("parquet", parquet(user_id=pa.array([None], pa.string())), "clicks.parquet:1: user_id: must not be empty (got '')"),
    "users of the type null": ("parquet", parquet(user_id=pa.nulls(1)), "clicks.parquet: user_id: the column must hold text or whole numbers (got 'null')"),
    "times that are true": ("parquet", parquet(timestamp=[True]), "clicks.parquet: timestamp: the column must hold numbers, dates or ISO dates as text (got 'bool')"),
    "times that are null": ("parquet", parquet(timestamp=pa.array([None], pa.int64())), "clicks.parquet:1: timestamp: a timestamp must be a number or an ISO date (got nan)"),
    "times that are no numbers": ("parquet", parquet(timestamp=[float("nan")]), "clicks.parquet:1: timestamp: a timestamp must be a number or an ISO date (got nan)"),
    "times without end": ("parquet", parquet(timestamp=[float("inf")]), "clicks.parquet:1: timestamp: a timestamp must be a number or an ISO date (got inf)"),
    "times of day": ("parquet", parquet(timestamp=pa.array([1], pa.time64("us"))), "clicks.parquet: timestamp: the column must hold numbers, dates or ISO dates as text (got 'time64[us]')"),
    "durations": ("parquet", parquet(timestamp=pa.array([1], pa.duration("s"))), "clicks.parquet: timestamp: the column must hold numbers, dates or ISO dates as text (got 'duration[s]')"),
    "decimals": ("parquet", parquet(timestamp=pa.array([1], pa.decimal128(5, 2))), "clicks.parquet: timestamp: the column must hold numbers, dates or ISO dates as text (got 'decimal128(5, 2)')"),
    "times in words": ("parquet", parquet(timestamp=["soon"]), "clicks.parquet:1: timestamp: a timestamp must be a number or an ISO date (got 'soon')"),
    "a rating in words": ("parquet", parquet(rating=["good"]), "clicks.parquet:1: rating: a rating must be a finite number (got 'good')"),
    "a rating that is no number": ("parquet", parquet(rating=[float("nan")]), "clicks.parquet:1: rating: a rating must be a finite number (got nan)"),
    "a mapping": ("parquet", parquet(item_id=[{"a": 1}]), "clicks.parquet: item_id: the column must hold text or whole numbers (got 'struct<a: int64>')"),
}  # fmt: skip
MOVIELENS_CASES = {
    "no folder": ("movielens", {"ml/ratings.csv": None, "ml/movies.csv": None}, "data.path: the MovieLens folder or zip must exist (got 'ml'); looked for HERE/ml; fetch it from https://grouplens.org/datasets/movielens/ (for research, with citation; see its README), or leave it out to have ml-latest-small fetched"),
    "an empty folder": ("movielens", {"ml/ratings.csv": None, "ml/movies.csv": None, "ml/README": ""}, "ml: data.path: a MovieLens folder or zip must hold ratings.csv and movies.csv or ratings.dat and movies.dat or u.data and u.item"),
    "no movies": ("movielens", {"ml/movies.csv": None}, "ml: data.path: a MovieLens folder or zip must hold ratings.csv and movies.csv or ratings.dat and movies.dat or u.data and u.item"),
    "nothing in the ratings": ("movielens", {"ml/ratings.csv": ""}, "ml/ratings.csv: the file must not be empty"),
    "nothing in the movies": ("movielens", {"ml/movies.csv": ""}, "ml/movies.csv: the file must not be empty"),
    "a header alone": ("movielens", {"ml/movies.csv": "movieId,title,genres\n"}, "ml/movies.csv: the file must hold at least one row"),
    "a rating beyond the scale": ("movielens", {"ml/ratings.csv": "userId,movieId,rating,timestamp\n1,1,9,1\n"}, "ml/ratings.csv:2: rating: a rating must be from 0.5 to 5 (got 9.0)"),
    "a rating below the scale": ("movielens", {"ml/ratings.csv": "userId,movieId,rating,timestamp\n1,1,0,1\n"}, "ml/ratings.csv:2: rating: a rating must be from 0.5 to 5 (got 0.0)"),
    "a rating in words": ("movielens", {"ml/ratings.csv": "userId,movieId,rating,timestamp\n1,1,good,1\n"}, "ml/ratings.csv:2: rating: a rating must be a finite number (got 'good')"),
    "a movie twice": ("movielens", {"ml/movies.csv": "movieId,title,genres\n1,A,x\n1,B,x\n"}, "ml/movies.csv:3: movieId: an item must have one row only (got '1')"),
    "columns of another release": ("movielens", {"ml/ratings.csv": "user,movie,rating,timestamp\n1,1,4,1\n"}, "ml/ratings.csv:1: userId: the file must have this column; did you mean 'user'?\nml/ratings.csv:1: movieId: the file must have this column; did you mean 'movie'?"),
    "a zip of nothing": ("zip", {"ml.zip": b""}, "ml.zip: the file must be a whole zip; File is not a zip file"),
    "a zip that is text": ("zip", {"ml.zip": b"PK not at all"}, "ml.zip: the file must be a whole zip; File is not a zip file"),
    "a zip's first half": ("zip", {"ml.zip": WHOLE[: len(WHOLE) // 2]}, "ml.zip: the file must be a whole zip; it is a zip, or an Excel file: unpack it, or save it as CSV"),
    "a zip without its last byte": ("zip", {"ml.zip": WHOLE[:-1]}, "ml.zip: the file must be a whole zip; it is a zip, or an Excel file: unpack it, or save it as CSV"),
    "a zip without members": ("zip", zipped({}), "ml.zip: data.path: a MovieLens folder or zip must hold ratings.csv and movies.csv or ratings.dat and movies.dat or u.data and u.item"),
    "a zip of other files": ("zip", zipped({"x/readme.txt": "x"}), "ml.zip: data.path: a MovieLens folder or zip must hold ratings.csv and movies.csv or ratings.dat and movies.dat or u.data and u.item"),
    "a zip within a zip": ("zip", zipped({"ml-latest-small.zip": WHOLE}), "ml.zip: data.path: a MovieLens folder or zip must hold ratings.csv and movies.csv or ratings.dat and movies.dat or u.data and u.item"),
    "a zip that unpacks to a thousand times its size": ("zip", zipped({**ML, "ml/ratings.csv": b"\n" * 10_000_000}), "ml.zip: ml/ratings.csv: a zip's file must have at most 100 times its packed bytes (got 10000000); the variable RERANKER_MOST_UNPACKED_TIMES raises that"),
    "a zip whose member is damaged": ("zip", {"ml.zip": WHOLE[:60] + b"\0\0\0\0\0\0\0\0" + WHOLE[68:]}, "ml.zip: the file must be a whole zip; Bad CRC-32 for file 'ml/ratings.csv'"),
    "a zip of a gzip": ("zip", zipped({**ML, "ml/ratings.csv": gzip.compress(b"x", mtime=0)}), "ml.zip/ratings.csv:1: the first line must hold the names of the columns, in UTF-8; it is packed by gzip: unpack it"),
    "a gzip in the place of a zip": ("zip", {"ml.zip": gzip.compress(WHOLE, mtime=0)}, "ml.zip: the file must be a whole zip; it is packed by gzip: unpack it"),
}  # fmt: skip


def inter(rows: str, header: str = "user_id:token\titem_id:token\ttimestamp:float") -> Files:
    return {"x.inter": f"{header}\n{rows}\n"}


def review(**fields: Any) -> str:
    sound = {"reviewerID": "A1", "asin": "0000000001", "overall": 5.0, "unixReviewTime": 1_300_000_000}
    return json.dumps({name: value for name, value in {**sound, **fields}.items() if value is not None}) + "\n"


LINES_CASES = {
    "Amazon: no reviews": ("amazon", {"reviews.json": None}, "reviews.json: the file must exist; looked for HERE/reviews.json; fetch it from https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/ (see the publisher's page, which says what to cite)"),
    "Amazon: no metadata": ("amazon", {"meta.json": None}, "meta.json: the file must exist; looked for HERE/meta.json; fetch it from https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/ (see the publisher's page, which says what to cite)"),
    "Amazon: nothing": ("amazon", {"reviews.json": ""}, "reviews.json: the file must hold at least one line"),
    "Amazon: blank lines": ("amazon", {"reviews.json": "\n\n \n"}, "reviews.json: the file must hold at least one line"),
    "Amazon: no JSON": ("amazon", {"reviews.json": "{broken\n"}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: a line must hold one whole JSON object (got '{broken')"),
    "Amazon: a list": ("amazon", {"reviews.json": "[1, 2]\n"}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: a line must hold one whole JSON object (got '[1, 2]')"),
    "Amazon: a number": ("amazon", {"reviews.json": "42\n"}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: a line must have 4 fields: asin, reviewerID, overall, unixReviewTime (got '42')"),
    "Amazon: brackets without end": ("amazon", {"reviews.json": '{"asin": ' + NEST + "\n"}, 'reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got \'1 of 1\')\nreviews.json:1: a line must hold one whole JSON object (got \'{"asin": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[…\')'),
    "Amazon: brackets that end": ("amazon", {"meta.json": '{"asin": "0000000001", "title": ' + "[" * 20_000 + "]" * 20_000 + "}\n"}, 'meta.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got \'1 of 1\')\nmeta.json:1: a line must hold one whole JSON object or Python dictionary (got \'{"asin": "0000000001", "title": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[…\')'),
    "Amazon: an integer of five thousand digits": ("amazon", {"reviews.json": '{"asin": ' + "9" * 5000 + "}\n"}, 'reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got \'1 of 1\')\nreviews.json:1: a line must hold one whole JSON object (got \'{"asin": 99999999999999999999999999999999999999999999999999999999999999999999999…\')'),
    "Amazon: no text": ("amazon", {"reviews.json": b"\xff\xfe\x00\n"}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1'); it is UTF-16: save it as UTF-8\nreviews.json:1: the text must be UTF-8; found b'\\xff\\xfe\\x00'"),
    "Amazon: no user": ("amazon", {"reviews.json": review(reviewerID=None)}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: reviewerID: an id must be given, as text or a whole number"),
    "Amazon: a user that is a list": ("amazon", {"reviews.json": review(reviewerID=["A1"])}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: reviewerID: an id must be given, as text or a whole number (got ['A1'])"),
    "Amazon: an item with a NUL character": ("amazon", {"reviews.json": review(asin="000000000\0")}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: asin: an id must be given, as text or a whole number (got '000000000\\x00')"),
    "Amazon: a rating of six": ("amazon", {"reviews.json": review(overall=6)}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: overall: a rating must be from 1 to 5 (got 6)"),
    "Amazon: a rating that is true": ("amazon", {"reviews.json": review(overall=True)}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: overall: a rating must be from 1 to 5 (got True)"),
    "Amazon: a rating that is no number": ("amazon", {"reviews.json": review(overall=float("nan"))}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: overall: a rating must be from 1 to 5 (got nan)"),
    "Amazon: milliseconds": ("amazon", {"reviews.json": review(unixReviewTime=1_300_000_000_000)}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: unixReviewTime: a time must be seconds since 1970, from 1995 to 2018 (got 1300000000000)"),
    "Amazon: a time before there was a shop": ("amazon", {"reviews.json": review(unixReviewTime=0)}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: unixReviewTime: a time must be seconds since 1970, from 1995 to 2018 (got 0)"),
    "Amazon: a time in words": ("amazon", {"reviews.json": review(unixReviewTime="12 Mar 2011")}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: unixReviewTime: a time must be seconds since 1970, from 1995 to 2018 (got '12 Mar 2011')"),
    "Amazon: a gzip that ends early": ("amazon", {"reviews.json": gzip.compress(review().encode() * 99, mtime=0)[:-9]}, "reviews.json:100: the file must be a whole gzip; Compressed file ended before the end-of-stream marker was reached"),
    "Amazon: a gzip of a wrong checksum": ("amazon", {"reviews.json": gzip.compress(review().encode(), mtime=0)[:-8] + bytes(8)}, "reviews.json:2: the file must be a whole gzip; CRC check failed 0x0 != 0x32942c9f"),
    "Amazon: a gzip that is a header alone": ("amazon", {"reviews.json": b"\x1f\x8b"}, "reviews.json:1: the file must be a whole gzip; Compressed file ended before the end-of-stream marker was reached"),
    "Amazon: a gzip of an unknown method": ("amazon", {"reviews.json": b"\x1f\x8b\x09" + bytes(20)}, "reviews.json:1: the file must be a whole gzip; Unknown compression method"),
    "Amazon: a gzip of garbage": ("amazon", {"reviews.json": b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + b"\xff" * 30}, "reviews.json:1: the file must be a whole gzip; Error -3 while decompressing data: invalid block type"),
    "Amazon: a gzip of a thousand times its size": ("amazon", {"reviews.json": gzip.compress((b" " * 999 + b"\n") * 20_000, mtime=0)}, "reviews.json:6554: a packed file must have at most 100 times its packed bytes; the variable RERANKER_MOST_UNPACKED_TIMES raises that"),
    "Amazon: a gzip of one long line": ("amazon", {"reviews.json": gzip.compress(b"{" * 6_000_000, mtime=0)}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: a line must hold one whole JSON object (got '{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{…')"),
    "Amazon: items that nobody reviewed": ("amazon", {"meta.json": '{"asin": "0000000002", "title": "Pencil"}\n'}, "meta.json: the items of at least half of the interactions must have a text (got '0 of 1'); do both belong together? The interactions are in reviews.json"),
    "Amazon: reviews of 2014": ("amazon", {"reviews.json": review(helpful=[0, 0])}, "reviews.json:1: data.year: the file must be of the year 2018, as data.year says (got 2018); this is one of 2014: say data.year: 2014, or get the file of 2018 from https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/"),
    "RecBole: no interactions": ("recbole", {"x.inter": None}, "x.inter: the file must exist; looked for HERE/x.inter; fetch it from https://recbole.io/dataset_list.html (each data set has its own; see its publisher's page)"),
    "RecBole: no items": ("recbole", {"x.item": None}, "x.item: the file must exist; looked for HERE/x.item; fetch it from https://recbole.io/dataset_list.html (each data set has its own; see its publisher's page)"),
    "RecBole: nothing": ("recbole", {"x.inter": ""}, "x.inter:1: the first line must name each field with its type, such as item_id:token; types: token, token_seq, float, float_seq (got '')"),
    "RecBole: a header alone": ("recbole", {"x.inter": "user_id:token\titem_id:token\ttimestamp:float\n"}, "x.inter: the file must hold at least one line"),
    "RecBole: names without types": ("recbole", inter("u\ta\t1", "user_id\titem_id\ttimestamp"), "x.inter:1: the first line must name each field with its type, such as item_id:token; types: token, token_seq, float, float_seq (got 'user_id')"),
    "RecBole: an unknown type": ("recbole", inter("u\ta\t1", "user_id:token\titem_id:token\ttimestamp:int"), "x.inter:1: the first line must name each field with its type, such as item_id:token; types: token, token_seq, float, float_seq (got 'timestamp:int')"),
    "RecBole: commas": ("recbole", inter("u,a,1", "user_id:token,item_id:token,timestamp:float"), "x.inter:1: user_id: the file must have this field; valid: user_id:token,item_id:token,timestamp\nx.inter:1: item_id: the file must have this field; valid: user_id:token,item_id:token,timestamp\nx.inter:1: timestamp: the file must have this field; valid: user_id:token,item_id:token,timestamp"),
    "RecBole: no time": ("recbole", inter("u\ta", "user_id:token\titem_id:token"), "x.inter:1: timestamp: the file must have this field; valid: item_id, user_id"),
    "RecBole: a field too few": ("recbole", inter("u\ta"), "x.inter: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nx.inter:2: a line must have 3 fields: user_id, item_id, timestamp (got 'u\\ta')"),
    "RecBole: a time in words": ("recbole", inter("u\ta\tsoon"), "x.inter: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nx.inter:2: timestamp: a time must be a number (got 'soon')"),
    "RecBole: a time without end": ("recbole", inter("u\ta\tinf"), "x.inter: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nx.inter:2: timestamp: a time must be a number (got 'inf')"),
    "RecBole: an empty user": ("recbole", inter("\ta\t1"), "x.inter: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nx.inter:2: user_id: an id must be given, as text or a whole number (got '')"),
    "RecBole: items without a title": ("recbole", {"x.item": "item_id:token\tprice:float\na\t1\n"}, "x.item:1: data.item_text: say what an item's text is made of; fields: item_id, price"),
    "RecBole: UTF-16": ("recbole", {"x.inter": "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\n".encode("utf-16")}, "x.inter:1: the first line must name each field with its type, such as item_id:token; types: token, token_seq, float, float_seq (got '\\x00u\\x00')"),
    "MIND: no behaviours": ("mind", {"behaviors.tsv": None}, "behaviors.tsv: the file must exist; looked for HERE/behaviors.tsv; fetch it from https://msnews.github.io (Microsoft Research License Terms, for non-commercial research)"),
    "MIND: no news": ("mind", {"news.tsv": None}, "news.tsv: the file must exist; looked for HERE/news.tsv; fetch it from https://msnews.github.io (Microsoft Research License Terms, for non-commercial research)"),
    "MIND: nothing": ("mind", {"behaviors.tsv": ""}, "behaviors.tsv: the file must hold at least one line"),
    "MIND: the test part": ("mind", {"behaviors.tsv": "1\tU1\t11/15/2019 8:55:22 AM\tN1\tN1 N2\n"}, "behaviors.tsv: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nbehaviors.tsv:1: impressions: what was shown must be news ids that end in -1 where they were clicked, else in -0 (got 'N1 N2'); the test part, which lacks that, can't be used"),
    "MIND: a time of another country": ("mind", {"behaviors.tsv": "1\tU1\t2019-11-15 08:55:22\tN1\tN1-1\n"}, "behaviors.tsv: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nbehaviors.tsv:1: time: a time must be written as 11/15/2019 8:55:22 AM (got '2019-11-15 08:55:22')"),
    "MIND: a field too few": ("mind", {"behaviors.tsv": "1\tU1\t11/15/2019 8:55:22 AM\tN1-1\n"}, "behaviors.tsv: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nbehaviors.tsv:1: a line must have 5 fields: impression_id, user_id, time, history, impressions (got '1\\tU1\\t11/15/2019 8:55:22 AM\\tN1-1')"),
    "MIND: an empty user": ("mind", {"behaviors.tsv": "1\t\t11/15/2019 8:55:22 AM\tN1\tN1-1\n"}, "behaviors.tsv: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nbehaviors.tsv:1: user_id: an id must be given, as text or a whole number (got '')"),
    "MIND: a NUL character in what was shown": ("mind", {"behaviors.tsv": "1\tU1\t11/15/2019 8:55:22 AM\tN1\tN\0-1\n"}, "behaviors.tsv: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nbehaviors.tsv:1: impressions: what was shown must be news ids that end in -1 where they were clicked, else in -0 (got 'N\\x00-1'); the test part, which lacks that, can't be used"),
    "MIND: a NUL character in a history": ("mind", {"behaviors.tsv": "1\tU1\t11/15/2019 8:55:22 AM\tN\0\tN1-1\n"}, "behaviors.tsv: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nbehaviors.tsv:1: history: news ids must hold no NUL character"),
    "MIND: nothing clicked": ("mind", {"behaviors.tsv": "1\tU1\t11/15/2019 8:55:22 AM\t\tN1-0\n"}, "behaviors.tsv: the file must hold at least one interaction"),
    "MIND: news of another part": ("mind", {"news.tsv": "N9\tsports\tgolf\tA title\tx\tx\t[]\t[]\n"}, "news.tsv: the items of at least half of the interactions must have a text (got '0 of 2'); do both belong together? The interactions are in behaviors.tsv"),
    "Steam: no games": ("steam", {"games.json": None}, "games.json: the file must exist; looked for HERE/games.json; fetch it from https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data (see the publisher's page, which says what to cite)"),
    "Steam: code": ("steam", {"reviews.json": "__import__('os').system('true')\n"}, 'reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got \'1 of 1\')\nreviews.json:1: a line must hold one whole JSON object or Python dictionary (got "__import__(\'os\').system(\'true\')")'),
    "Steam: a dictionary that is not closed": ("steam", {"reviews.json": "{'username': 'Ann'\n"}, 'reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got \'1 of 1\')\nreviews.json:1: a line must hold one whole JSON object or Python dictionary (got "{\'username\': \'Ann\'")'),
    "Steam: brackets without end": ("steam", {"reviews.json": "{'username': " + NEST + "\n"}, 'reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got \'1 of 1\')\nreviews.json:1: a line must hold one whole JSON object or Python dictionary (got "{\'username\': [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[…")'),
    "Steam: a name that is a set": ("steam", {"reviews.json": "{'username': {1, 2}, 'product_id': '7', 'date': '2017-12-17'}\n"}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: username: an id must be given, as text or a whole number (got {1, 2})"),
    "Steam: no name": ("steam", {"reviews.json": "{'product_id': '7', 'date': '2017-12-17'}\n"}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: username: an id must be given, as text or a whole number"),
    "Steam: a date that is none": ("steam", {"reviews.json": "{'username': 'Ann', 'product_id': '7', 'date': '2017-02-30'}\n"}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: date: a date must be written as 2017-12-17 (got '2017-02-30')"),
    "Steam: a date that is a number": ("steam", {"reviews.json": "{'username': 'Ann', 'product_id': '7', 'date': 20171217}\n"}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: date: a date must be written as 2017-12-17 (got 20171217)"),
    "Yelp: no reviews": ("yelp", {"reviews.json": None}, "reviews.json: the file must exist; looked for HERE/reviews.json; fetch it from https://www.yelp.com/dataset (Yelp's Dataset User Agreement)"),
    "Yelp: other names": ("yelp", {"reviews.json": '{"user": "u", "business": "b", "date": 1, "stars": 3}\n'}, "reviews.json:1: user_id: the records must have this field; did you mean 'user'?\nreviews.json:1: business_id: the records must have this field; did you mean 'business'?"),
    "Yelp: a date that is none": ("yelp", {"reviews.json": '{"user_id": "u", "business_id": "b", "date": "soon", "stars": 3}\n'}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: date: a time must be a number or an ISO date (got 'soon')"),
    "Yelp: ten stars": ("yelp", {"reviews.json": '{"user_id": "u", "business_id": "b", "date": 1, "stars": 10}\n'}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: stars: a rating must be from 1 to 5 (got 10)"),
    "Yelp: no stars": ("yelp", {"reviews.json": '{"user_id": "u", "business_id": "b", "date": 1, "stars": null}\n'}, "reviews.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nreviews.json:1: stars: a rating must be from 1 to 5"),
    "Yelp: a business that is a list": ("yelp", {"business.json": "[]\n"}, "business.json: at most 0.01 of the lines may be malformed, see data.most_malformed (got '1 of 1')\nbusiness.json:1: a line must hold one whole JSON object (got '[]')"),
    "Yelp: a business without a name": ("yelp", {"business.json": '{"business_id": "b", "name": ""}\n'}, "business.json: the items of at least half of the interactions must have a text (got '0 of 1'); do both belong together? The interactions are in reviews.json"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "files", "says"), table(CSV_CASES))
def test_csv(source, files, says):
    assert answer(source, files) == (2, says)


@pytest.mark.parametrize(("source", "files", "fields", "says"), table(OTHER_CASES))
def test_what_a_study_file_asks_of_tables(source, files, fields, says):
    assert answer(source, files, **fields) == (2, says)


@pytest.mark.parametrize(("source", "files", "says"), table(PARQUET_CASES))
def test_parquet(source, files, says):
    assert answer(source, files) == (2, says)


@pytest.mark.parametrize(("source", "files", "says"), table(MOVIELENS_CASES))
def test_movielens(source, files, says):
    assert answer(source, files) == (2, says)


@pytest.mark.parametrize(("source", "files", "says"), table(LINES_CASES))
def test_files_of_a_record_a_line(source, files, says):
    assert answer(source, files) == (2, says)


def answer_other(source: str, files: Files, fields: dict[str, Any]) -> Told:
    return answer(source, files, **fields)
