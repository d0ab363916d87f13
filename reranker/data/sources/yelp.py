"""Yelp's reviews and businesses, or JSON lines like them under other names → the tables of interactions and items."""

from __future__ import annotations

from functools import partial
from typing import Any

from reranker.data.sources.origin import YELP
from reranker.data.sources.reading.line_file import Clock, LineFile, json_record, seconds_of
from reranker.data.sources.reading.streamed_tables import Imported, InteractionRows, ItemRows, RowFields, tables_of
from reranker.data_config import YelpData
from reranker.errors import nearest
from reranker.item_text import ItemTemplate

_PROBED = 1000  # lines, in one of which each field must occur


def read(config: YelpData) -> Imported:
    """Both tables; only businesses that were reviewed.

    Raises:
        InputError: with the faults of both files: they are absent, lack a field, or have too many malformed lines.
        EnvironmentFault: a file may not be read.
    """
    reviews, businesses = (
        LineFile(path, json_record, YELP.hint, config.most_malformed) for path in (config.reviews, config.businesses)
    )
    rows, items = InteractionRows(), ItemRows(businesses)
    needed = [config.user_field, config.item_field, config.time_field, config.rating_field]
    if reviews.is_there() and _has(reviews, needed):
        clock, time_rule = _clock(reviews, config.time_field)
        RowFields(
            user=config.user_field,
            item=config.item_field,
            time=config.time_field,
            time_rule=time_rule,
            clock=clock,
            rating=config.rating_field,
            ratings=(config.lowest_rating, config.highest_rating),
            rating_rule=f"a rating must be from {config.lowest_rating:g} to {config.highest_rating:g}",
        ).read(reviews, rows)
    template = ItemTemplate.parse(config.item_text)
    if businesses.is_there() and _has(businesses, [config.item_field, *template.fields]):
        items.read(config.item_field, rows, template)
    return tables_of(rows, items, reviews)


def _clock(file: LineFile, field: str) -> tuple[Clock, str]:
    """What reads times as most of the first ones are written, as numbers or as ISO dates, and the rule for the others.

    In no order would stand 2017 and 2018-06-30: a number is taken as it is, a date in seconds since 1970.
    """
    times = [record.get(field) for record in file.head(_PROBED)]
    numbers, dates = (sum(map(partial(_can_be, clock), times)) for clock in (float, seconds_of))
    if not numbers and not dates:
        return float, "a time must be a number or an ISO date"
    clock, kind = (seconds_of, "an ISO date") if dates > numbers else (float, "a number")
    return clock, f"a time must be {kind}, as most of the first ones are"


def _can_be(clock: Clock, time: Any) -> bool:
    try:
        clock(time)
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def _has(file: LineFile, needed: list[str]) -> bool:
    """Whether each field is in one of the first records; a fault for each that is not."""
    names = list(dict.fromkeys(name for record in file.head(_PROBED) for name in record))
    missing = [name for name in dict.fromkeys(needed) if names and name not in names]
    for name in missing:
        file.refuse("the records must have this field", 1, name, hint=nearest(name, names))
    return not missing
