"""Amazon reviews of 2014, 2018 or 2023, and the metadata of their products → the tables of interactions and items.

Reviews are JSON lines, or the ratings alone as CSV; metadata are JSON lines, in 2014 Python dictionaries. All may be packed
by gzip. The files of different years look alike and mean different things (whose id comes first, seconds or milliseconds),
so the year must be said, and is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain

from reranker.data.sources.origin import AMAZON, Origin
from reranker.data.sources.reading.line_file import LineFile, Record, json_record, literal_record, separated_record
from reranker.data.sources.reading.plain_text import plain, whole_letters
from reranker.data.sources.reading.streamed_tables import Imported, InteractionRows, ItemRows, RowFields, tables_of
from reranker.data_config import AmazonData
from reranker.item_text import ItemTemplate

_PROBED = 1000  # lines that tell the year
_ASIN = re.compile(r"[0-9A-Z]{10}")


@dataclass(frozen=True)
class _Release:
    """How one year's files are written."""

    year: int
    columns: tuple[str, str, str, str]  # of its CSV
    user: str
    item: str
    rating: str
    time: str
    ticks: int = 1  # of its clock in a second

    @property
    def origin(self) -> Origin:
        """Where to get the files, and on what terms."""
        return AMAZON[self.year]

    def fields(self) -> RowFields:
        """Of its reviews. Nothing was rated before 1995, or after the year of the release."""
        first, end = datetime(1995, 1, 1, tzinfo=UTC), datetime(self.year + 1, 1, 1, tzinfo=UTC)
        return RowFields(
            user=self.user,
            item=self.item,
            time=self.time,
            times=(first.timestamp() * self.ticks, end.timestamp() * self.ticks),
            time_rule=(
                f"a time must be {'seconds' if self.ticks == 1 else 'milliseconds'} since 1970, from 1995 to {self.year}"
            ),
            rating=self.rating,
            ratings=(1, 5),
            rating_rule="a rating must be from 1 to 5",
        )


_RELEASES = {
    2014: _Release(
        2014,
        ("reviewerID", "asin", "overall", "unixReviewTime"),
        *("reviewerID", "asin", "overall", "unixReviewTime"),
    ),
    2018: _Release(
        2018,
        ("asin", "reviewerID", "overall", "unixReviewTime"),
        *("reviewerID", "asin", "overall", "unixReviewTime"),
    ),
    2023: _Release(
        2023,
        ("user_id", "parent_asin", "rating", "timestamp"),
        *("user_id", "parent_asin", "rating", "timestamp"),
        ticks=1000,
    ),
}
_REVIEW_MARKS = {2014: {"helpful"}, 2018: {"verified"}, 2023: {"parent_asin"}}
_METADATA_MARKS = {  # fields that only one year's products have
    2014: {"imUrl", "related"},
    2018: {"also_buy", "also_view", "main_cat", "imageURL", "imageURLHighRes", "similar_item", "tech1", "category"},
    2023: {"parent_asin"},
}


def read(config: AmazonData) -> Imported:
    """Both tables; only products that have a review, and only reviews of products that have a text.

    Raises:
        InputError: with the faults of both files: they are absent, of another year, or have too many malformed lines.
        EnvironmentFault: a file may not be read.
    """
    release = _RELEASES[config.year]
    parse = literal_record if config.year == 2014 else json_record
    reviews = LineFile(config.reviews, parse, release.origin.hint, config.most_malformed)
    metadata = LineFile(config.metadata, literal_record, release.origin.hint, config.most_malformed)
    rows, items = InteractionRows(), ItemRows(metadata)
    if reviews.is_there() and _is_of_its_year(reviews, release):
        release.fields().read(reviews, rows)
    if metadata.is_there():
        _check_year(metadata, release, _year_by(metadata.head(_PROBED), _METADATA_MARKS))
        if not metadata.faults.total:
            image_of = None if config.images is None else _IMAGE_OF[config.year]
            items.read(release.item, rows, ItemTemplate.parse(config.item_text), _field, image_of)
    return tables_of(rows, items, reviews)


def _is_of_its_year(reviews: LineFile, release: _Release) -> bool:
    """Whether the reviews are of the year that was said, as far as can be seen; sets how its lines are read."""
    start = reviews.first_line()
    if not start or start.lstrip("\ufeff \t").startswith(("{", "[")):
        return _check_year(reviews, release, _year_by(reviews.head(_PROBED), _REVIEW_MARKS))
    names = tuple(start.split(","))
    has_header = "parent_asin" in names
    reviews.parse = separated_record(names if has_header else release.columns, ",")
    reviews.has_header = has_header
    year = 2023 if has_header else _year_by_order(reviews.head(_PROBED), release)
    if not has_header and year is None and release.year == 2023:
        reviews.refuse(
            "the first line of a CSV of 2023 must hold user_id,parent_asin,rating,timestamp", 1, value=start[:80]
        )
        return False
    return _check_year(reviews, release, year)


def _check_year(file: LineFile, release: _Release, year: int | None) -> bool:
    if year is None or year == release.year:
        return True
    hint = (
        f"this is one of {year}: say data.year: {year}, or get the file of {release.year} from {release.origin.address}"
    )
    file.refuse(f"the file must be of the year {release.year}, as data.year says", 1, "data.year", release.year, hint)
    return False


def _year_by(records: Iterable[Record], marks: dict[int, set[str]]) -> int | None:
    """The year whose own fields the first records have; None if they have none."""
    names = list(chain.from_iterable(records))
    return next((year for year, own in marks.items() if own.intersection(names)), None)


def _year_by_order(records: list[Record], release: _Release) -> int | None:
    """Ratings alone have no header: users come first in 2014, products in 2018. Only products' ids all have ten characters."""
    first, second, *_ = release.columns
    first_is_item, second_is_item = (
        all(_ASIN.fullmatch(record[name]) for record in records) for name in (first, second)
    )
    if not records or first_is_item == second_is_item:
        return None
    return 2018 if first_is_item else 2014


def _field(record: Record, name: str) -> str:
    """A field of a product by one name for all years; empty if it lacks it."""
    if name == "title":
        title = plain(record.get("title"))
        return "" if "getTime" in title else title  # in 2018 some are scripts of the page that they were taken from
    if name == "brand":
        details = record.get("details")
        own = details.get("Brand") if isinstance(details, dict) else None
        return plain(record.get("brand")) or plain(own) or plain(record.get("store"))
    if name == "category":
        return plain(record.get("category")) or plain(record.get("categories"))
    if name == "main_category":
        return plain(record.get("main_category")) or plain(record.get("main_cat"))
    if name == "features":
        return plain(record.get("features")) or plain(record.get("feature"))
    return plain(record.get(name))


def _image_2014(record: Record) -> str:
    return _address(record.get("imUrl"))


def _image_2018(record: Record) -> str:
    """The first large one, else the first small one."""
    return next((address for name in ("imageURLHighRes", "imageURL") if (address := _first(record.get(name)))), "")


def _image_2023(record: Record) -> str:
    """The main one, else the first; of 500 pixels, which is more than a model reads, else of another size."""
    listed = record.get("images")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    main = next((entry for entry in entries if entry.get("variant") == "MAIN"), entries[0] if entries else {})
    return next((address for size in ("large", "hi_res", "thumb") if (address := _address(main.get(size)))), "")


_IMAGE_OF = {2014: _image_2014, 2018: _image_2018, 2023: _image_2023}


def _first(listed: object) -> str:
    return next((address for entry in listed if (address := _address(entry))), "") if isinstance(listed, list) else ""


def _address(value: object) -> str:
    return whole_letters(value.strip()) if isinstance(value, str) else ""
