"""The header of a table → which of its columns is which, by the names that such columns usually have."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reranker.errors import EnvironmentFault, Fault, InputError, nearest


@dataclass(frozen=True)
class Column:
    """
    Attributes:
        text: what it holds.
        names: usual ones, in letters and digits alone, the likeliest first.
        needed: whether the table can't be used without it.
    """

    text: str
    names: tuple[str, ...]
    needed: bool = True


_USER = (
    "userid", "user", "customerid", "customer", "clientid", "client", "memberid", "member", "reviewerid", "reviewer",
    "accountid", "account", "visitorid", "visitor", "sessionid", "session", "uid",
)  # fmt: skip
_ITEM = (
    "itemid", "item", "productid", "product", "sku", "asin", "parentasin", "movieid", "movie", "articleid", "article",
    "newsid", "gameid", "appid", "trackid", "songid", "videoid", "bookid", "isbn", "businessid", "contentid", "iid",
)  # fmt: skip
_TIME = (
    "timestamp", "time", "datetime", "date", "ts", "unixreviewtime", "reviewtime", "eventtime", "createdat", "created",
    "orderedat", "orderdate", "purchasedat", "purchasedate", "clickedat", "viewedat", "occurredat", "when",
)  # fmt: skip
_TEXT = (
    "text", "title", "name", "itemname", "productname", "producttitle", "movietitle", "headline", "description",
)  # fmt: skip
_RATING = ("rating", "stars", "score", "overall", "reviewscore")
INTERACTION_COLUMNS = {
    "user_id": Column("the user", _USER),
    "item_id": Column("the item, in the table of interactions", _ITEM),
    "timestamp": Column("when: numbers or ISO dates", _TIME),
    "rating": Column("a rating, if there is one", _RATING, needed=False),
}
ITEM_COLUMNS = {
    "item_id": Column("the item, in the table of items", (*_ITEM, "id")),
    "text": Column("what the item is called", _TEXT),
}


def recognised(file: Path, given: Mapping[str, str | None], columns: Mapping[str, Column]) -> dict[str, str]:
    """Our name of each column → the file's; an optional one may be missing.

    Args:
        given: by our names, what the user says; None where it is to be recognised.

    Raises:
        InputError: the file has no such column, or which one it is can't be told.
        EnvironmentFault: it can't be read.
    """
    header = _header(file)
    recognised, faults = {}, []
    for name, column in columns.items():
        said = given.get(name)
        if said is not None:
            if said in header:
                recognised[name] = said
            else:
                faults.append(Fault("the table has no such column", str(file), 1, said, hint=nearest(said, header)))
            continue
        plain = {re.sub(r"[^a-z0-9]", "", title.lower()): title for title in header}
        match = next((plain[usual] for usual in column.names if usual in plain), None)
        if match is not None:
            recognised[name] = match
        elif column.needed:
            option = {"item_id": "--items-id-column" if "text" in columns else "--item-column"}.get(
                name, f"--{name.removesuffix('_id')}-column"
            )
            rule = f"none of the columns looks like {column.text}"
            faults.append(Fault(rule, str(file), 1, hint=f"name it with {option}; there are: {', '.join(header)}"))
    if faults:
        raise InputError(faults)
    return recognised


def _header(file: Path) -> list[str]:
    """The names of a table's columns, without reading its rows."""
    if not file.is_file():
        raise InputError([Fault("the file must exist", str(file), hint=f"looked for {file.absolute()}")])
    try:
        if file.suffix.lower() == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet

            try:
                return list(pyarrow.parquet.read_schema(file).names)
            except (pa.ArrowException, OSError) as error:
                rule = "the file must be readable as Parquet"
                raise InputError([Fault(rule, str(file), hint=str(error).splitlines()[0])]) from None
        if file.suffix.lower() != ".csv":
            raise InputError([Fault("the file's name must end in .csv or .parquet", str(file), value=file.name)])
        with file.open(encoding="utf-8-sig", newline="") as lines:
            header = next(csv.reader(lines), [])
    except (UnicodeDecodeError, csv.Error):
        raise InputError([Fault("the first line must hold the names of the columns, in UTF-8", str(file), 1)]) from None
    except PermissionError as error:
        raise EnvironmentFault(f"cannot read {file}: no permission") from error
    if len(header) < 2:
        rule = "the table must have at least two columns, with their names in the first line, between commas"
        raise InputError([Fault(rule, str(file), 1, value=", ".join(header))])
    return header
