"""A file of one record a line, plain or gzip → its records one by one, and the faults of lines that are none.

Published files of millions of lines hold some that are broken. Few of them are left out, counted and named; a file with more
of them is refused.
"""

from __future__ import annotations

import ast
import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from reranker.data.sources.reading.fault_list import FaultList
from reranker.data.sources.reading.plain_text import whole_letters
from reranker.data.sources.reading.shortened_numbers import is_shortened, lacks_digits
from reranker.errors import EnvironmentFault, first_line
from reranker.storage.file_kinds import what_it_is
from reranker.storage.limits import LINE_BYTES, UNPACKED_TIMES

Record = dict[str, Any]
Clock = Callable[[Any], float]  # raises ValueError or TypeError for what is none
Parse = Callable[[str], Record]  # raises ValueError with the rule that the line breaks
_SMALL = 1 << 16  # bytes; smaller packed files may unpack as far as one of this size
_HOPELESS = 1000  # lines after which a file is given up if most of them are malformed
_SHOWN = 3  # malformed lines that are named where they are left out
_LONGEST_VALUE = 80  # characters of a value in a fault


@dataclass
class LineFile:
    """What is read of a file, and what was wrong with it.

    Attributes:
        origin: where it can be had and on what terms; told if it is absent.
        most_malformed: share of the lines that may be left out.
        faults: of the file as a whole and, until `finish`, of each malformed line.
        has_header: whether the first line that is not blank is none of the records.
        name: what it is called where lines of it were left out; empty: its own name.
        malformed: lines with a fault so far.
    """

    path: Path
    parse: Parse
    origin: str
    most_malformed: float
    has_header: bool = False
    name: str = ""
    faults: FaultList = field(init=False)
    lines: int = 0
    malformed: int = 0
    _last_malformed: int = 0
    _is_unusable: bool = False

    def __post_init__(self) -> None:
        self.faults = FaultList(str(self.path))

    def refuse(
        self, rule: str, line: int | None = None, column: str = "", value: object = None, hint: str = ""
    ) -> None:
        """Add a fault of the file as a whole: it will not be used."""
        self._is_unusable = True
        self.faults.add(rule, line, column, value, hint)

    def is_there(self) -> bool:
        """Whether the file exists; a fault if not."""
        try:
            if self.path.is_file():
                return True
        except OSError as error:
            raise _unreadable(self.path, error) from error
        self.refuse("the file must exist", hint=f"looked for {self.path.absolute()}; {self.origin}")
        return False

    def head(self, count: int) -> list[Record]:
        """The first sound records, without a note of the others."""
        return [record for _, record in islice(self.again(), count)]

    def again(self) -> LineFile:
        """The same file, to be read without a note of what is wrong."""
        return LineFile(self.path, self.parse, self.origin, self.most_malformed, self.has_header)

    def first_line(self) -> str:
        """The first line that is not blank, as far as it is text; empty if there is none."""
        probe = LineFile(self.path, lambda text: {"text": text}, self.origin, self.most_malformed)
        return next((record["text"] for _, record in probe), "")

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        """Each sound record with its line, from 1; blank lines count as lines and are no records."""
        try:
            with _open(self.path) as (file, most):
                yield from self._records(file, most)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self.refuse("the file must be a whole gzip", self.lines + 1, hint=first_line(error))
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def _records(self, file: BinaryIO, most: float) -> Iterator[tuple[int, Record]]:
        number, unpacked, longest, header_is_due = 0, 0, LINE_BYTES.most, self.has_header
        while data := file.readline(longest + 1):
            number, unpacked = number + 1, unpacked + len(data)
            if len(data) > longest:
                self.refuse(LINE_BYTES.rule("a line"), number, hint=LINE_BYTES.hint)
                return
            if unpacked > most:
                self.refuse(UNPACKED_TIMES.rule("a packed file"), number, hint=UNPACKED_TIMES.hint)
                return
            if not (data := data.strip(b"\r\n")).strip():
                continue
            if header_is_due:
                header_is_due = False
                continue
            self.lines += 1
            try:
                record = self.parse(data.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                shown = ascii(data[max(0, error.start - 20) : error.start + 20])
                self.reject(number, "", "the text must be UTF-8", hint=f"found {shown}")
            except ValueError as error:
                self.reject(number, "", str(error), data.decode(errors="replace"))
            else:
                yield number, record
            if self.lines == _HOPELESS and self.malformed > _HOPELESS / 2:
                return

    def reject(self, line: int, column: str, rule: str, value: object = None, hint: str = "") -> None:
        """Add a fault of a line, which is left out then."""
        if line != self._last_malformed:
            self.malformed += 1
            self._last_malformed = line
        if isinstance(value, str) and len(value) > _LONGEST_VALUE:
            value = value[:_LONGEST_VALUE] + "…"
        self.faults.add(rule, line, column, value, hint)

    def id_of(self, line: int, record: Record, name: str) -> str | None:
        """A field that is an id; None after a fault."""
        value = record.get(name)
        if type(value) is int:
            return str(value)
        if isinstance(value, str) and value.strip() and "\0" not in value:
            if whole_letters(value) == value and not is_shortened(value):
                return value
            rule = "an id must have all its digits: a program has shortened this one, and perhaps others to the same"
            self.reject(line, name, rule if is_shortened(value) else "the text must be UTF-8", value)
            return None
        self.reject(line, name, "an id must be given, as text or a whole number", value)
        return None

    def number_of(
        self, line: int, record: Record, name: str, low: float, high: float, rule: str, number_in: Clock = float
    ) -> float | None:
        """A field that is a number from `low` to `high`, as `number_in` reads it; None after a fault."""
        value = record.get(name)
        if isinstance(value, str) and lacks_digits(value):
            self.reject(line, name, "a number must have all its digits: a spreadsheet has shortened this one", value)
            return None
        try:
            number = math.nan if value is None or isinstance(value, bool) else number_in(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if low <= number <= high:
            return number
        self.reject(line, name, rule, value)
        return None

    def finish(self) -> str:
        """Judge the malformed lines: faults stay if they are too many or the file can't be used.

        Returns:
            Those that were left out, the first ones by name; empty if there are none.
        """
        if not self._is_unusable and not self.lines:
            self.refuse("the file must hold at least one line")
        if self.malformed > self.most_malformed * self.lines:
            rule = f"at most {self.most_malformed:.4g} of the lines may be malformed, see data.most_malformed"
            with self.path.open("rb") as file:
                hint = what_it_is(file.read(64))
            self.refuse(rule, value=f"{self.malformed:,} of {self.lines:,}", hint="" if "gzip" in hint else hint)
        if self._is_unusable or not self.malformed:
            return ""
        named = [str(fault).removeprefix(f"{self.faults.file}:") for fault in self.faults.shown[:_SHOWN]]
        more = "; …" if self.faults.total > _SHOWN else ""
        self.faults = FaultList(self.faults.file)
        return f"malformed lines of {self.name or self.path.name} (line {'; line '.join(named)}{more})"


def json_record(text: str) -> Record:
    """A JSON object.

    Raises:
        ValueError: with the rule that the line breaks.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    return _record(record, "a line must hold one whole JSON object")


def literal_record(text: str) -> Record:
    """A JSON object, or a Python dictionary as some published files hold them: `{u'id': '7', 'free': True}`.

    Raises:
        ValueError: with the rule that the line breaks.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        try:
            record = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            record = None
    return _record(record, "a line must hold one whole JSON object or Python dictionary")


def separated_record(names: tuple[str, ...], separator: str) -> Parse:
    """For lines of fields without quotes."""

    def parse(text: str) -> Record:
        values = text.split(separator)
        if len(values) != len(names):
            raise ValueError(f"a line must have {len(names)} fields: {', '.join(names)}")
        return dict(zip(names, values, strict=True))

    return parse


def seconds_of(value: str) -> float:
    """An ISO date, perhaps with a time, in seconds since 1970; UTC if it has no zone.

    Raises:
        ValueError, TypeError: it is none.
    """
    date = datetime.fromisoformat(value)
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _record(value: object, rule: str) -> Record:
    if isinstance(value, dict):
        return value
    raise ValueError(rule)


@contextmanager
def _open(path: Path) -> Iterator[tuple[BinaryIO, float]]:
    """The file, unpacked, and how many bytes it may have."""
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"  # whatever its name ends in
    if not is_packed:
        with path.open("rb") as plain:
            yield plain, math.inf
        return
    most = UNPACKED_TIMES.most * max(path.stat().st_size, _SMALL)
    with gzip.open(path, "rb") as packed:
        yield cast(BinaryIO, packed), most


def _unreadable(path: Path, error: OSError) -> EnvironmentFault:
    if isinstance(error, PermissionError):
        return EnvironmentFault(f"cannot read {path}: no permission")
    return EnvironmentFault(f"cannot read {path}: {error.strerror or error}")
