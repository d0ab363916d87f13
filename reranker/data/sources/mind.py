"""MIND's behaviors.tsv and news.tsv, of a folder or of several → the tables of interactions and items.

A line of behaviors is what a user was shown at a time and what of it was clicked, with the user's clicks before that, oldest
first and without times. Those are put a second apart before the user's first line, or before the later one that has more
of them. Several folders (train, dev) are one log: users and news have the same ids in all of them, and what two of them hold
is taken once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from reranker.data.interactions import Removal
from reranker.data.sources.origin import MIND
from reranker.data.sources.reading.line_file import LineFile, Record, separated_record
from reranker.data.sources.reading.streamed_tables import Imported, InteractionRows, ItemRows, tables_of
from reranker.data_config import MindData
from reranker.item_text import ItemTemplate

_BEHAVIOURS = ("impression_id", "user_id", "time", "history", "impressions")
_NEWS = ("news_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
_SHOWN = re.compile(r"[^\s\0]+-[01](?: [^\s\0]+-[01])*")
_TIME = "%m/%d/%Y %I:%M:%S %p"


def read(config: MindData) -> Imported:
    """Both tables; only news that someone clicked.

    Raises:
        InputError: with the faults of all files: they are absent, or have too many malformed lines.
        EnvironmentFault: a file may not be read.
    """
    behaviours, news = (
        [
            LineFile(
                folder / name,
                separated_record(columns, "\t"),
                MIND.hint,
                config.most_malformed,
                name=f"{folder.name}/{name}" if len(config.folders) > 1 else "",
            )
            for folder in config.folders
        ]
        for name, columns in (("behaviors.tsv", _BEHAVIOURS), ("news.tsv", _NEWS))
    )
    log = _Log(InteractionRows(), among_several=len(config.folders) > 1)
    for file in behaviours:
        if file.is_there():
            log.read(file)
    log.add_histories()
    items = ItemRows(news[0])
    for file in news:
        items = ItemRows(file, items.texts)
        if file.is_there():
            items.read("news_id", log.rows, ItemTemplate.parse(config.item_text))
    imported = tables_of(log.rows, items, *behaviours, item_files=news[:-1])
    return replace(imported, skipped=(*imported.skipped, *log.skipped))


@dataclass
class _Log:
    """What is known of the impressions read so far.

    Attributes:
        rows: the clicks in them.
        among_several: whether other files may hold the same impressions.
    """

    rows: InteractionRows
    among_several: bool
    # Of each user the earliest line, and the earliest of those with the most clicks before: time and history
    _earliest: dict[str, tuple[float, int, str]] = field(default_factory=dict)
    _longest: dict[str, tuple[int, str, float]] = field(default_factory=dict)
    _earlier: set[int] = field(default_factory=set)  # the impressions of other files, by hash
    _repeated: int = 0
    _repeated_clicks: int = 0

    def read(self, file: LineFile) -> None:
        """Add each line that breaks no rule, and is not of an earlier file."""
        own: set[int] = set()
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
            clicked = [entry[:-2] for entry in shown.split(" ") if entry.endswith("-1")]
            if self.among_several:
                impression = hash((user, time, shown))
                if impression in self._earlier:
                    self._repeated += 1
                    self._repeated_clicks += len(clicked)
                    continue
                own.add(impression)
            for news in clicked:
                self.rows.add(user, news, time)
            history, fewer = record["history"], -len(record["history"].split())
            self._earliest[user] = min((time, fewer, history), self._earliest.get(user, (time, fewer, history)))
            self._longest[user] = min((fewer, history, time), self._longest.get(user, (fewer, history, time)))
        self._earlier |= own

    def add_histories(self) -> None:
        """Add each user's clicks before the first impression, after all files were read. What a later line has besides
        was clicked between the two: at the time of its own impression, if there is one, for that is the earlier row.
        """
        for user, (time, _, history) in self._earliest.items():
            clicked = history.split()
            self._add_before(time, user, clicked)
            _, longest, later = self._longest[user]
            if longest != history:
                known = set(clicked)
                self._add_before(later, user, [news for news in longest.split() if news not in known])

    def _add_before(self, time: float, user: str, clicked: list[str]) -> None:
        for position, news in enumerate(clicked):
            self.rows.add(user, news, time - len(clicked) + position)

    @property
    def skipped(self) -> list[Removal]:
        """What was left out of the log."""
        if not self._repeated:
            return []
        return [
            Removal(f"impressions that an earlier folder has too ({self._repeated:,})", self._repeated_clicks, 0, 0)
        ]


def _time(file: LineFile, line: int, record: Record) -> float | None:
    try:
        return datetime.strptime(record["time"], _TIME).replace(tzinfo=UTC).timestamp()
    except ValueError:
        file.reject(line, "time", "a time must be written as 11/15/2019 8:55:22 AM", record["time"])
        return None
