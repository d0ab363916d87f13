"""CSV or Parquet files → the tables of interactions and items, or one error with every fault of both files."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.sources.reading.fault_list import FaultList, raise_faults
from reranker.data.sources.reading.shortened_numbers import SHORT
from reranker.data.sources.reading.table_file import FIELD, TextFile, read_table
from reranker.data.sources.reading.time_units import UNITS, in_another_unit, unit_rule
from reranker.data_config import ItemImageSource, TablesData
from reranker.item_text import CAPTION, ItemTemplate

_INTERACTIONS = ("user_id", "item_id", "timestamp")
_IMAGE, _FIELDS = "image", "fields"


def read(config: TablesData) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables, see `read_interactions` and `read_items`.

    Raises:
        InputError: with the first 20 faults of each file, and the total count.
        EnvironmentFault: a file may not be read.
    """
    interaction_faults, item_faults = FaultList(str(config.interactions)), FaultList(str(config.items))
    columns = config.interaction_columns
    interactions = read_interactions(config.interactions, interaction_faults, columns.model_dump())
    items = read_items(config.items, item_faults, config.item_columns.model_dump(), config.item_text, config.images)
    if config.min_rating is not None and not interaction_faults.total and "rating" not in interactions:
        rule = f"needs a column {columns.rating!r}"
        interaction_faults.add(rule, column="data.min_rating", value=config.min_rating)
    raise_faults(interaction_faults, item_faults)
    return interactions, items


def read_interactions(
    source: Path | TextFile, faults: FaultList, names: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Columns user_id, item_id (text, as written), timestamp, and rating (float64) where the file has it.

    Timestamps are all numbers (of any one unit, unchanged, int64 or float64) or all ISO 8601 dates (converted to int64
    microseconds since 1970, or nanoseconds if they have such digits; UTC if there is no zone). The index is each row's line, 1-based and counting the header; in
    a Parquet file it is the number of the row.

    Args:
        faults: collects the faults; the table is usable only if none was added.
        names: our column name → the file's, where they differ.
    """
    names = dict(names or {})
    table = read_table(source, _INTERACTIONS, ("rating",), names, faults)
    result = pd.DataFrame(index=table.index)
    for column in ("user_id", "item_id"):
        if column in table:
            result[column] = _ids(table[column], names.get(column, column), faults)
    if "timestamp" in table:
        result["timestamp"] = _timestamps(table["timestamp"], names.get("timestamp", "timestamp"), faults)
    if "rating" in table:
        result["rating"] = _numbers(table["rating"], names.get("rating", "rating"), "a rating", faults)
    return result


def read_items(
    source: Path | TextFile,
    faults: FaultList,
    names: Mapping[str, str] | None = None,
    template: str | None = None,
    images: ItemImageSource | None = None,
) -> pd.DataFrame:
    """Columns item_id and text; index and arguments as in `read_interactions`.

    Args:
        template: of the text (`reranker.item_text`), whose fields are columns of the file; None: the column `text`.
        images: adds the column `image`, as the file has it; and where captions are made the column `fields`, a mapping
            of what the texts are made of besides.
    """
    names = dict(names or {})
    parsed = ItemTemplate.parse(template) if template else None
    makes_captions = images is not None and images.caption_model is not None
    own = [name for name in parsed.fields if not (makes_captions and name == CAPTION)] if parsed else []
    names |= {f"{FIELD}{name}": name for name in own}
    text_columns = [f"{FIELD}{name}" for name in own] if parsed else ["text"]
    if images is not None:
        names[_IMAGE] = images.column
    needed = ["item_id", *text_columns, *([] if images is None else [_IMAGE])]
    table = read_table(source, needed, (), names, faults)
    if table.empty or not set(needed) <= set(table.columns):
        return table
    fields = table[text_columns].set_axis(own or ["text"], axis=1)
    filled = fill(parsed, fields) if parsed else table["text"]
    text_name = ", ".join(names.get(column, column) for column in text_columns)
    items = items_of(table["item_id"], filled, (names.get("item_id", "item_id"), text_name), faults)
    if images is not None:
        items[_IMAGE] = table[_IMAGE]
    if makes_captions:
        items[_FIELDS] = pd.Series(fields.to_dict("records"), index=items.index, dtype=object)
    return items


def read_scores(source: Path, faults: FaultList) -> pd.DataFrame:
    """Columns user_id, item_id (text) and score (float64); index and arguments as in `read_interactions`."""
    table = read_table(source, ("user_id", "item_id", "score"), (), {}, faults)
    if faults.total:
        return table
    ids = {column: _ids(table[column], column, faults) for column in ("user_id", "item_id")}
    scores = _numbers(table["score"], "score", "a score", faults)
    is_large = np.isfinite(scores.to_numpy()) & (scores.abs() > np.finfo(np.float32).max).to_numpy()
    faults.add_rows("a score must be at most 3.4e38, which 32 bits hold", "score", scores, is_large)
    return pd.DataFrame({**ids, "score": scores})


def items_of(ids: pd.Series[Any], texts: pd.Series[Any], names: tuple[str, str], faults: FaultList) -> pd.DataFrame:
    """Columns item_id and text, checked; the file calls them `names`."""
    ids, texts = _ids(ids, names[0], faults), _texts(texts, names[1], faults)
    repeated = (ids.duplicated() & (ids.str.strip() != "")).to_numpy(dtype=bool)
    faults.add_rows("an item must have one row only", names[0], ids, repeated)
    return pd.DataFrame({"item_id": ids, "text": texts})


def read_columns(file: TextFile, columns: Sequence[str], faults: FaultList) -> pd.DataFrame:
    """Columns of text under the file's names, indexed by line; no rows if the file as a whole is unusable."""
    return read_table(file, columns, (), {}, faults)


def fill(template: ItemTemplate, fields: pd.DataFrame) -> pd.Series[Any]:
    """The template's text of each row, from columns of text; fields that are no column are empty."""
    names = [name for name in template.fields if name in fields]
    rows = zip(*(fields[name] for name in names), strict=True)
    texts = [template.fill(dict(zip(names, values, strict=True))) for values in rows]
    return pd.Series(texts, index=fields.index, dtype="str")


def _ids(values: pd.Series[Any], column: str, faults: FaultList) -> pd.Series[Any]:
    """Texts none of which is a shortened number, as programs write long ids: 1.23457E+15 stands for many of them. Nor is one
    another's with blanks around it, or in another of Unicode's forms, which would make two users of one."""
    rule = "an id must have all its digits: a program has shortened this one, and perhaps others to the same"
    faults.add_rows(rule, column, values, _shortened(values))
    bare = values.str.strip()
    has_blanks = (bare != values).to_numpy(dtype=bool)
    if has_blanks.any():
        rule = "an id must be written alike in all rows: others have this one without the blanks around it"
        faults.add_rows(rule, column, values, has_blanks & bare.isin(values[~has_blanks]).to_numpy(dtype=bool))
    is_other = ~values.str.isascii().to_numpy(dtype=bool)
    if is_other.any():
        rule = "an id must be written alike in all rows: others have this one in another Unicode form, which looks the same"
        composed = values[is_other].map(partial(unicodedata.normalize, "NFC"))
        differs = (composed != values[is_other]).to_numpy(dtype=bool)
        is_other[is_other] = differs
        is_other[is_other] = composed[differs].isin(values[~is_other]).to_numpy(dtype=bool)
        faults.add_rows(rule, column, values, is_other)
    return _texts(values, column, faults)


def _texts(values: pd.Series[Any], column: str, faults: FaultList) -> pd.Series[Any]:
    faults.add_rows("must not be empty", column, values, (values.str.strip() == "").to_numpy(dtype=bool))
    faults.add_rows(
        "must hold no NUL character", column, values, values.str.contains("\0", regex=False).to_numpy(dtype=bool)
    )
    return values


def _numbers(values: pd.Series[Any], column: str, what: str, faults: FaultList) -> pd.Series[Any]:
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    faults.add_rows(f"{what} must be a finite number", column, values, ~np.isfinite(numbers.to_numpy()))
    return numbers


def _timestamps(values: pd.Series[Any], column: str, faults: FaultList) -> pd.Series[Any]:
    numbers = pd.to_numeric(values, errors="coerce")
    is_number = np.isfinite(numbers.to_numpy(dtype="float64"))
    if is_number.all():
        if pd.api.types.is_string_dtype(values):
            rule = "a timestamp must have all its digits: a spreadsheet has shortened this one, and others to the same"
            faults.add_rows(rule, column, values, _lacks_digits(values))
        most, others = in_another_unit(numbers)
        for other in range(len(UNITS)):
            faults.add_rows(unit_rule(most, other), column, values, others == other)
        return numbers
    rule = "a timestamp must be a number or an ISO date"
    if pd.api.types.is_numeric_dtype(values):
        faults.add_rows(rule, column, values, ~is_number)
        return numbers
    not_numbers = values[~is_number]
    dated = not_numbers.where(not_numbers.str.match(r"\s*\d{4}-?\d"))  # pandas would parse "now" and "today"
    dates = pd.to_datetime(dated, format="ISO8601", errors="coerce", utc=True)
    is_date = np.zeros(len(values), dtype=bool)
    is_date[~is_number] = dates.notna().to_numpy()
    faults.add_rows(rule, column, values, ~is_number & ~is_date)
    if is_number.any():
        majority, minority, is_minority = ("numbers", "a date", is_date)
        if is_date.sum() > is_number.sum():
            majority, minority, is_minority = ("ISO dates", "a number", is_number)
        faults.add_rows(
            f"timestamps must be of one kind: most are {majority}, this is {minority}", column, values, is_minority
        )
        return numbers
    unit: Literal["ns", "us"] = "ns" if dates.dt.unit == "ns" else "us"  # of a table with such digits
    return dates.dt.as_unit(unit).astype("int64") if is_date.all() else numbers


def _shortened(values: pd.Series[Any]) -> NDArray[np.bool_]:
    """Which texts are numbers of a few digits and an exponent."""
    # of millions, so the pattern comes second
    is_short = values.str.contains("+", regex=False).to_numpy(dtype=bool, copy=True)
    if is_short.any():
        is_short[is_short] = values[is_short].str.fullmatch(SHORT).to_numpy(dtype=bool)
    return is_short


def _lacks_digits(values: pd.Series[Any]) -> NDArray[np.bool_]:
    """Which numbers have fewer digits than they had, as spreadsheets shorten them: 1.71717E+12. Not R's 1.5e+09."""
    lacks = _shortened(values)
    if lacks.any():
        parts = values[lacks].str.extract(SHORT)
        lost = parts[0].fillna("").str.len() < parts[1].astype("int64")
        lacks[lacks] = lost.to_numpy(dtype=bool) & values[lacks].str.contains("E", regex=False).to_numpy(dtype=bool)
    return lacks
