"""Steam's reviews and games → the tables of interactions and items; a rating is the hours that the user has played.

Both files hold Python dictionaries, one a line. A user is known by the name, which every review has, unlike the id; a review
has a day and no time.
"""

from __future__ import annotations

from datetime import date

from reranker.data.sources.origin import STEAM
from reranker.data.sources.reading.line_file import LineFile, Record, literal_record
from reranker.data.sources.reading.plain_text import plain
from reranker.data.sources.reading.streamed_tables import Imported, InteractionRows, ItemRows, RowFields, tables_of
from reranker.data_config import SteamData
from reranker.item_text import ItemTemplate

_DAY = 86_400
_FIRST_DAY = date(1970, 1, 1).toordinal()


def read(config: SteamData) -> Imported:
    """Both tables; only games that were reviewed.

    Raises:
        InputError: with the faults of both files: they are absent, or have too many malformed lines.
        EnvironmentFault: a file may not be read.
    """
    reviews, games = (
        LineFile(path, literal_record, STEAM.hint, config.most_malformed) for path in (config.reviews, config.games)
    )
    rows, items = InteractionRows(), ItemRows(games)
    fields = RowFields(
        user="username",
        item="product_id",
        time="date",
        time_rule="a date must be written as 2017-12-17",
        clock=_seconds,
        rating="hours" if config.min_hours is not None else None,
        ratings=(0, 1e6),
        rating_rule="the hours must be from 0 to 1,000,000",
        missing_rating=0.0,
    )
    if reviews.is_there():
        fields.read(reviews, rows)
    if games.is_there():
        items.read("id", rows, ItemTemplate.parse(config.item_text), _field)
    return tables_of(rows, items, reviews)


def _seconds(text: str) -> float:
    return float((date.fromisoformat(text).toordinal() - _FIRST_DAY) * _DAY)


def _field(record: Record, name: str) -> str:
    return plain(record.get(name)) or plain(record.get("app_name") if name == "title" else None)
