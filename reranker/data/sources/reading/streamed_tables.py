"""Interactions and items that come one by one → the two tables, in little memory, and what had to be left out."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.interactions import Removal
from reranker.data.sources.reading.fault_list import raise_faults
from reranker.data.sources.reading.line_file import Clock, LineFile, Record
from reranker.data.sources.reading.plain_text import plain
from reranker.data.sources.reading.time_units import in_another_unit, unit_rule, units_of
from reranker.errors import Fault, InputError
from reranker.item_text import ItemTemplate

_LARGEST = 1e18  # no time or rating is infinite
_NUMBERS = {int, float, str}
_LEAST_WITH_TEXT = 0.5  # share of the interactions; below it the files are hardly of the same data


@dataclass(frozen=True)
class Imported:
    """The two tables of a source, and what was left out of its files."""

    interactions: pd.DataFrame
    items: pd.DataFrame
    skipped: tuple[Removal, ...]


class InteractionRows:
    """24 bytes a row, besides the ids, each of which is kept once."""

    def __init__(self) -> None:
        self._users: dict[str, int] = {}
        self.items: dict[str, int] = {}
        self._user_codes, self._item_codes = array("i"), array("i")
        self._times, self._ratings = array("d"), array("d")

    def __len__(self) -> int:
        return len(self._times)

    @property
    def times(self) -> NDArray[np.float64]:
        """Of each row."""
        return np.array(self._times)

    def add(self, user: str, item: str, time: float, rating: float | None = None) -> None:
        """One row; either all have a rating or none."""
        self._user_codes.append(self._users.setdefault(user, len(self._users)))
        self._item_codes.append(self.items.setdefault(item, len(self.items)))
        self._times.append(time)
        if rating is not None:
            self._ratings.append(rating)

    def table(self) -> pd.DataFrame:
        """Columns user_id and item_id (categories in ascending order), timestamp, and rating if there are any."""
        columns = {
            "user_id": _categorical(self._users, self._user_codes),
            "item_id": _categorical(self.items, self._item_codes),
            "timestamp": self.times,
        }
        return pd.DataFrame(columns | ({"rating": np.array(self._ratings)} if self._ratings else {}))


@dataclass(frozen=True)
class RowFields:
    """What a file calls the fields of an interaction, and the numbers that it may hold."""

    user: str
    item: str
    time: str
    times: tuple[float, float] = (-_LARGEST, _LARGEST)
    time_rule: str = "a time must be a number"
    clock: Clock = float
    rating: str | None = None
    ratings: tuple[float, float] = (-_LARGEST, _LARGEST)
    rating_rule: str = "a rating must be a number"
    missing_rating: float | None = None  # of a line without one, which is malformed if this is None

    def read(self, file: LineFile, rows: InteractionRows) -> None:
        """Add each line that breaks no rule."""
        for line, record in file:
            try:
                user, item, time = record[self.user], record[self.item], record[self.time]
                rating: Any = 0.0 if self.rating is None else record.get(self.rating, self.missing_rating)
                if (
                    type(user) is type(item) is str
                    and _NUMBERS.issuperset((type(time), type(rating)))
                    and self.times[0] <= (second := self.clock(time)) <= self.times[1]
                    and self.ratings[0] <= (stars := float(rating)) <= self.ratings[1]
                    and user.strip()
                    and item.strip()
                    and b"\0" not in (user + item).encode()  # half a letter is no UTF-8: a ValueError
                    and "+" not in user  # perhaps a shortened number
                    and "+" not in item
                    and not (isinstance(time, str) and "E+" in time)
                ):
                    rows.add(user, item, second, stars if self.rating else None)
                    continue
            except (KeyError, ValueError, TypeError, OverflowError):
                pass
            self.add_or_reject(file, line, record, rows)
        self._check_unit(file, rows)

    def _check_unit(self, file: LineFile, rows: InteractionRows) -> None:
        """Refuse a file whose times are in several units, and name the first line that differs from most."""
        most, others = in_another_unit(rows.times)
        if (others < 0).all():
            return
        for line, record in file.again():
            with suppress(KeyError, ValueError, TypeError, OverflowError):
                unit = int(units_of(self.clock(record[self.time])))
                if unit in others and unit >= 0:
                    hint = f"{np.count_nonzero(others >= 0):,} of {len(rows):,} are in another unit"
                    file.refuse(unit_rule(most, unit), line, self.time, record[self.time], hint)
                    return

    def add_or_reject(self, file: LineFile, line: int, record: Record, rows: InteractionRows) -> None:
        """One line, with each of its faults."""
        before = file.malformed
        user, item = file.id_of(line, record, self.user), file.id_of(line, record, self.item)
        rating = None
        if self.rating:
            filled = {self.rating: self.missing_rating, **record}
            rating = file.number_of(line, filled, self.rating, *self.ratings, self.rating_rule)
        time = file.number_of(line, record, self.time, *self.times, self.time_rule, self.clock)
        if file.malformed == before and user and item and time is not None:
            rows.add(user, item, time, rating)


def named(record: Record, name: str) -> str:
    """The field of that name as plain text."""
    return plain(record.get(name))


@dataclass(frozen=True)
class Pictured:
    """What an item's image is found and described by.

    Attributes:
        line: of the item.
        image: a path or an address; empty if the item has none.
        fields: what its text is made of, besides a caption.
    """

    line: int
    image: str
    fields: dict[str, str]


@dataclass
class ItemRows:
    """Texts by item. An item's second line is left out: silently if it says the same, else as a malformed one.

    Attributes:
        pictured: of each item with a text, where images are asked for.
    """

    file: LineFile
    texts: dict[str, str] = field(default_factory=dict)
    pictured: dict[str, Pictured] = field(default_factory=dict)

    def read(
        self,
        column: str,
        rows: InteractionRows,
        template: ItemTemplate,
        field_of: Callable[[Record, str], str] = named,
        image_of: Callable[[Record], str] | None = None,
    ) -> None:
        """Add each item of the file that someone touched.

        Args:
            column: where its id stands.
            field_of: a record and the name of a template's field → the value, empty if the item lacks it.
            image_of: a record → where its image is; None: images are not asked for.
        """
        for line, record in self.file:
            item = self.file.id_of(line, record, column)
            if item not in rows.items:
                continue
            try:
                values = {name: field_of(record, name) for name in template.fields}
                text = template.fill(values)
            except RecursionError:
                self.file.reject(line, ", ".join(template.fields), "values must not be nested so deeply")
            else:
                self.add(line, column, item, text)
                if text and image_of is not None:
                    self.pictured.setdefault(item, Pictured(line, image_of(record), values))

    def add(self, line: int, column: str, item: str, text: str) -> None:
        """One item; without a text it counts as absent."""
        if not text or (first_text := self.texts.setdefault(item, text)) == text:
            return
        self.file.reject(
            line, column, "an item must have one text only", item, f"an earlier line has {first_text[:80]!r}"
        )


def tables_of(
    rows: InteractionRows,
    items: ItemRows,
    interaction_file: LineFile,
    *more: LineFile,
    item_files: Sequence[LineFile] = (),
) -> Imported:
    """Both tables after all lines were read; interactions whose item has no text are left out.

    Args:
        items: the texts of all files, and the last file that they were read from.
        interaction_file, more: what the rows were read from.
        item_files: the other files of items, if there are any.

    Raises:
        InputError: with the faults of all files, if one of them can't be used, or they do not belong together.
    """
    interaction_files, item_files = (interaction_file, *more), (*item_files, items.file)
    is_sound = all(file.lines and not file.faults.total for file in interaction_files)
    if is_sound and not len(rows):
        interaction_file.refuse("the file must hold at least one interaction")
    left_out = {file.path: file.finish() for file in (*interaction_files, *item_files)}
    raise_faults(*(file.faults for file in (*interaction_files, *item_files)))
    skipped = [Removal(left_out[file.path], file.malformed, 0, 0) for file in interaction_files if left_out[file.path]]
    skipped += [Removal(left_out[file.path], 0, 0, file.malformed) for file in item_files if left_out[file.path]]
    table = rows.table()
    has_text = np.array([item in items.texts for item in table["item_id"].cat.categories], dtype=np.bool_)
    kept = table if has_text.all() else table[has_text[table["item_id"].cat.codes.to_numpy()]]
    if len(kept) < _LEAST_WITH_TEXT * len(table):
        rule = "the items of at least half of the interactions must have a text"
        hint = f"do both belong together? The interactions are in {interaction_file.path}"
        raise InputError([Fault(rule, str(items.file.path), value=f"{len(kept):,} of {len(table):,}", hint=hint)])
    if len(kept) < len(table):
        lost = (table[name].nunique() - kept[name].nunique() for name in ("user_id", "item_id"))
        skipped.append(Removal("items without a text", len(table) - len(kept), *lost))
    texts = {item: items.texts[item] for item in rows.items if item in items.texts}
    item_table = pd.DataFrame({"item_id": list(texts), "text": list(texts.values())}, dtype="str")
    return Imported(kept, _with_images(item_table, items), tuple(skipped))


def _with_images(table: pd.DataFrame, items: ItemRows) -> pd.DataFrame:
    """With the columns image and fields, indexed by line, where images were asked for; see `tables.read_items`."""
    if not items.pictured:
        return table
    pictured = [items.pictured[item] for item in table["item_id"]]
    table = table.assign(image=[of.image for of in pictured])
    table["fields"] = pd.Series([of.fields for of in pictured], index=table.index, dtype=object)
    return table.set_axis(pd.Index([of.line for of in pictured]), axis=0)


def _categorical(codes_of: dict[str, int], codes: Sequence[int]) -> pd.Categorical:
    ids = np.array(list(codes_of), dtype=object)
    order = np.argsort(ids)
    places: NDArray[np.int32] = np.empty(len(ids), dtype=np.int32)
    places[order] = np.arange(len(ids))
    return pd.Categorical.from_codes(places[np.array(codes, dtype=np.int32)], categories=pd.Index(ids[order]))
