"""A CSV or Parquet file, or delimited text → the wanted columns, indexed by line, and its faults."""

from __future__ import annotations

import csv
import io
import re
from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from reranker.data.sources.reading.fault_list import FaultList
from reranker.errors import EnvironmentFault, nearest
from reranker.storage.file_kinds import OTHER_MARKS, what_it_is
from reranker.storage.limits import TABLE_BYTES, TABLE_ROWS

_LONGEST_FIELD = 2**31 - 1  # characters; Python's own limit of 131,072 holds for quoted line breaks only
FIELD = "field "  # before the name of a template's field among our names, none of which it is then


@dataclass(frozen=True)
class TextFile:
    """Delimited text in memory, UTF-8.

    Attributes:
        name: used in errors.
        header: its columns if the file has no header line; else empty.
        quoted: whether a field may be in double quotes.
    """

    name: str
    data: bytes
    delimiter: str = ","
    header: tuple[str, ...] = ()
    quoted: bool = True


def read_table(
    source: Path | TextFile, required: Sequence[str], optional: Sequence[str], names: dict[str, str], faults: FaultList
) -> pd.DataFrame:
    """The wanted columns under our names; no rows if the file as a whole is unusable.

    Args:
        names: our column name → the file's, where they differ.
        faults: collects what is wrong.

    Raises:
        EnvironmentFault: the file may not be read.
    """
    if isinstance(source, TextFile):
        table = _read_text(source, required, optional, names, faults)
    else:
        try:
            if not source.is_file():
                faults.add("the file must exist", hint=f"looked for {source.absolute()}")
                return pd.DataFrame()
            if source.suffix.lower() == ".csv" and source.stat().st_size > TABLE_BYTES.most:
                faults.add(TABLE_BYTES.rule("a table"), value=source.stat().st_size, hint=TABLE_BYTES.hint)
                return pd.DataFrame()
            if source.suffix.lower() == ".csv":
                file = TextFile(str(source), source.read_bytes())
                table = _read_text(file, required, optional, names, faults)
            elif source.suffix.lower() == ".parquet":
                table = _read_parquet(source, required, optional, names, faults)
            else:
                faults.add("the file's name must end in .csv or .parquet", value=source.name)
                return pd.DataFrame()
        except PermissionError as error:
            raise EnvironmentFault(f"cannot read {source}: no permission") from error
        except OSError as error:
            raise EnvironmentFault(f"cannot read {source}: {error.strerror or error}") from error
    if table.empty and not faults.total:
        faults.add("the file must hold at least one row")
    return table


def _present(
    header: Sequence[str],
    required: Sequence[str],
    optional: Sequence[str],
    names: dict[str, str],
    faults: FaultList,
    line: int | None,
) -> list[str]:
    """The wanted columns that the header has, under our names; empty after a fault."""
    before = faults.total
    for column in required:
        name = names.get(column, column)
        if name not in header:
            faults.add("the file must have this column", line, name, hint=nearest(name, header))
    present = [column for column in (*required, *optional) if names.get(column, column) in header]
    for column in present:
        name = names.get(column, column)
        if header.count(name) > 1:
            faults.add("a column must occur once", line, name)
    return present if faults.total == before else []


def _read_text(
    file: TextFile, required: Sequence[str], optional: Sequence[str], names: dict[str, str], faults: FaultList
) -> pd.DataFrame:
    if not file.data.removeprefix(BOM_UTF8).strip():
        faults.add("the file must not be empty")
        return pd.DataFrame()
    try:
        csv.field_size_limit(_LONGEST_FIELD)
        header = list(file.header) or next(csv.reader(_decoded(file), delimiter=file.delimiter))
        if b"\0" in "".join(header).encode():
            raise csv.Error("NUL")
        if not any(name.strip() for name in header):
            raise csv.Error("blank")
    except (csv.Error, UnicodeEncodeError):
        rule = "the first line must hold the names of the columns, in UTF-8"
        faults.add(rule, 1, hint=what_it_is(file.data[:64]))
        return pd.DataFrame()
    if len(header) == 1 and (hint := what_it_is(file.data[:64])):
        faults.add("the first line must hold the names of the columns", 1, hint=hint)
        return pd.DataFrame()
    if len(header) == 1 and (other := next((mark for mark in OTHER_MARKS if mark in header[0]), "")):
        faults.add(
            "the fields of a line must be separated by commas", 1, value=header[0], hint=f"these are by {other!r}"
        )
        return pd.DataFrame()
    columns = _present(header, required, optional, names, faults, None if file.header else 1)
    if not columns:
        return pd.DataFrame()
    in_file = [names.get(column, column) for column in columns]
    table = _read_regular(file, in_file)
    if table is None:
        table = _read_by_line(file, header, in_file, faults)
    return table.set_axis(columns, axis=1)


def _read_regular(file: TextFile, columns: list[str]) -> pd.DataFrame | None:
    """Read a file with one complete record per line, fast; None for any other file."""
    if file.quoted and not _quotes_are_whole(file):  # pyarrow would take them out without a word
        return None
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(file.data),
            read_options=pyarrow.csv.ReadOptions(column_names=list(file.header) or None),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=file.delimiter, quote_char='"' if file.quoted else False, newlines_in_values=file.quoted
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=columns,
                column_types=dict.fromkeys(columns, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:  # a wrong number of fields, or not UTF-8
        return None
    first = 1 if file.header else 2
    lines = file.data.count(b"\n") + (not file.data.endswith(b"\n"))
    if table.num_rows + first - 1 != lines:  # blank lines, or quotes that span several, perhaps by mistake
        return None
    frame: pd.DataFrame = table.to_pandas()
    return frame.set_axis(pd.RangeIndex(first, first + len(frame)), axis=0)


def _quotes_are_whole(file: TextFile) -> bool:
    """Whether each field that begins with a quote ends with one, and has only doubled ones in between."""
    mark = re.escape(file.delimiter).encode()
    field = rb'(?:\A(?:%b)?|[%b\r\n])"(?:[^"]|"")*+("(?=[%b\r\n]|\Z))?' % (BOM_UTF8, mark, mark)
    return b'"' not in file.data or all(match[1] for match in re.finditer(field, file.data))


def _read_by_line(file: TextFile, header: list[str], columns: list[str], faults: FaultList) -> pd.DataFrame:
    """Read any file, in some seconds per million rows: good rows indexed by their first line, and faults for the rest.

    After an unclosed quote, the lines up to where reading can resume count as one faulty row.
    """
    reader = csv.reader(
        _decoded(file),
        delimiter=file.delimiter,
        quoting=csv.QUOTE_MINIMAL if file.quoted else csv.QUOTE_NONE,
        strict=True,
    )
    wanted = [header.index(column) for column in columns]
    lines: list[int] = []
    rows: list[list[str]] = []
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            faults.add("quotes must be closed, and doubled within a quoted field", line, hint=str(error))
            continue
        if not row or (line == 1 and not file.header):
            continue
        if len(row) != len(header):
            faults.add(f"a row must have {len(header)} fields", line, value=len(row))
            continue
        values = [row[position] for position in wanted]
        try:
            "".join(values).encode()
        except UnicodeEncodeError:
            broken = ascii("".join(values).encode(errors="surrogateescape"))
            faults.add("the text must be UTF-8", line, hint=f"found {broken[:80]}")
            continue
        lines.append(line)
        rows.append(values)
    return pd.DataFrame(rows, columns=columns, index=lines, dtype="str")


def _decoded(file: TextFile) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(file.data), encoding="utf-8-sig", errors="surrogateescape", newline="")


def _read_parquet(
    path: Path, required: Sequence[str], optional: Sequence[str], names: dict[str, str], faults: FaultList
) -> pd.DataFrame:
    try:
        facts = pyarrow.parquet.read_metadata(path)
        columns = _present(facts.schema.to_arrow_schema().names, required, optional, names, faults, None)
        if not columns:
            return pd.DataFrame()
        claimed = sum(facts.row_group(group).total_byte_size for group in range(facts.num_row_groups))
        for limit, value in ((TABLE_ROWS, facts.num_rows), (TABLE_BYTES, claimed)):
            if value > limit.most:
                faults.add(limit.rule("a table"), value=value, hint=limit.hint)
                return pd.DataFrame()
        in_file = [names.get(column, column) for column in columns]
        table = pyarrow.parquet.read_table(path, columns=list(dict.fromkeys(in_file)))
        table.validate(full=True)  # finds text that is not UTF-8, among others
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        faults.add("the file must be readable as Parquet", hint=str(error).splitlines()[0])
        return pd.DataFrame()
    series = {}
    for column, values in zip(columns, map(table.column, in_file), strict=True):
        decoded = values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values
        kind = decoded.type
        is_id = column in ("user_id", "item_id")
        if _is_text(kind) or (is_id and pa.types.is_integer(kind)):
            series[column] = decoded.cast(pa.string()).to_pandas().astype("str").fillna("")
        elif column == "timestamp" and (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            unit = "ns" if pa.types.is_timestamp(kind) and kind.unit == "ns" else "us"  # no two times become one
            series[column] = decoded.cast(pa.timestamp(unit), safe=False).cast(pa.int64()).to_pandas()
        elif column in ("timestamp", "rating", "score") and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            series[column] = decoded.to_pandas()
        elif column.startswith(FIELD) and (words := _words(decoded)) is not None:
            series[column] = words
        else:
            name, fitting = names.get(column, column), _FITTING_TYPES.get(column, "text, numbers or lists of text")
            faults.add(f"the column must hold {fitting}", column=name, value=str(kind))
    return pd.DataFrame(series).set_axis(pd.RangeIndex(1, table.num_rows + 1), axis=0) if series else pd.DataFrame()


def _words(values: pa.ChunkedArray) -> pd.Series[Any] | None:
    """A field's values as text, several ones after each other; None for other types."""
    kind = values.type
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_text(kind.value_type):
        return pd.Series([", ".join(text for text in row or () if text) for row in values.to_pylist()], dtype="str")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        if pa.types.is_floating(kind):
            values = pc.if_else(pc.is_nan(values), None, values)  # a missing number, as some write it
        numbers: pd.Series[Any] = values.cast(pa.string()).to_pandas().astype("str").fillna("")
        return numbers
    return None


def _is_text(kind: pa.DataType) -> bool:
    return any(fits(kind) for fits in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


_FITTING_TYPES = {
    "user_id": "text or whole numbers",
    "item_id": "text or whole numbers",
    "text": "text",
    "image": "text",
    "timestamp": "numbers, dates or ISO dates as text",
    "rating": "numbers",
    "score": "numbers",
}
