"""MIND's behaviors.tsv and news.tsv → the tables of interactions and items.

A line of behaviors is what a user was shown at a time and what of it was clicked, with the user's clicks before that, oldest
first and without times. Those are put a second apart before the user's first line.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from reranker.data.sources.reading.line_file import LineFile, Record, separated_record
from reranker.data.sources.reading.streamed_tables import Imported, InteractionRows, ItemRows, tables_of
from reranker.data_config import MindData
from reranker.item_text import ItemTemplate

_ORIGIN = "get it from https://msnews.github.io (Microsoft Research License Terms: research, not to be passed on)"
_BEHAVIOURS = ("impression_id", "user_id", "time", "history", "impressions")
_NEWS = ("news_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
_SHOWN = re.compile(r"[^\s\0]+-[01](?: [^\s\0]+-[01])*")
_TIME = "%m/%d/%Y %I:%M:%S %p"


def read(config: MindData) -> Imported:
    """Both tables; only news that someone clicked.

    Raises:
        InputError: with the faults of both files: they are absent, or have too many malformed lines.
        EnvironmentFault: a file may not be read.
    """
    behaviours, news = (
        LineFile(config.path / name, separated_record(columns, "\t"), _ORIGIN, config.most_malformed)
        for name, columns in (("behaviors.tsv", _BEHAVIOURS), ("news.tsv", _NEWS))
    )
    rows, items = InteractionRows(), ItemRows(news)
    if behaviours.is_there():
        _read_behaviours(behaviours, rows)
    if news.is_there():
        items.read("news_id", rows, ItemTemplate.parse(config.item_text))
    return tables_of(rows, items, behaviours)


def _read_behaviours(file: LineFile, rows: InteractionRows) -> None:
    histories: dict[str, str] = {}  # the longest one of each user
    first_times: dict[str, float] = {}
    for line, record in file:
        before = file.malformed
        user, time = file.id_of(line, record, "user_id"), _time(file, line, record)
        shown = record["impressions"].strip()
        if not _SHOWN.fullmatch(shown):
            rule = "what was shown must be news ids that end in -1 where they were clicked, else in -0"
            file.reject(line, "impressions", rule, shown, "the test part, which lacks that, can't be used")
        if "\0" in record["history"]:
            file.reject(line, "history", "news ids must hold no NUL character")
        if file.malformed > before or user is None or time is None:
            continue
        for entry in shown.split(" "):
            if entry.endswith("-1"):
                rows.add(user, entry[:-2], time)
        if len(record["history"]) > len(histories.get(user, "")):
            histories[user] = record["history"]
        first_times[user] = min(time, first_times.get(user, time))
    for user, history in histories.items():
        clicked = history.split()
        for position, news in enumerate(clicked):
            rows.add(user, news, first_times[user] - len(clicked) + position)


def _time(file: LineFile, line: int, record: Record) -> float | None:
    try:
        return datetime.strptime(record["time"], _TIME).replace(tzinfo=UTC).timestamp()
    except ValueError:
        file.reject(line, "time", "a time must be written as 11/15/2019 8:55:22 AM", record["time"])
        return None
