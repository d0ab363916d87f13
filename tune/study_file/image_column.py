"""A table of items → which of its columns says where their images are, by what its first rows hold."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reranker.data.images.fetched_images import is_url
from reranker.errors import Fault, InputError, nearest

_LOOKED_AT = 1000  # rows
_LEAST = 0.5  # of a column's values that are not empty
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class ImageColumn:
    """
    Attributes:
        name: the table's.
        are_addresses: whether it mostly holds addresses rather than paths.
        named: how many of the rows that were looked at name an image.
        rows: how many were looked at.
    """

    name: str
    are_addresses: bool
    named: int
    rows: int


def image_column(file: Path, said: str | None = None, taken: Collection[str] = ()) -> ImageColumn | None:
    """The column with the most values that end as images do; None if no column mostly holds such.

    Args:
        file: CSV or Parquet, whose header has been read before.
        said: the column that the user names; it need not look like one.
        taken: columns that hold something else.

    Raises:
        InputError: there is no such column.
    """
    rows = list(_rows(file))
    names = list(dict.fromkeys(name for row in rows for name in row if isinstance(name, str)))  # None: a cell too many
    if said is not None and said not in names:
        raise InputError([Fault("the table has no such column", str(file), 1, said, hint=nearest(said, names))])
    best: ImageColumn | None = None
    for name in names if said is None else [said]:
        values = [value.strip() for row in rows if isinstance(value := row.get(name), str) and value.strip()]
        kinds = Counter(is_url(value) for value in values if _looks_like_one(value))
        found = ImageColumn(name, kinds[True] > kinds[False], kinds.total(), len(rows))
        if said is not None:
            return found
        is_one = name not in taken and found.named >= max(1, _LEAST * len(values))
        if is_one and (best is None or found.named > best.named):
            best = found
    return best


def _looks_like_one(text: str) -> bool:
    """Whether a path, or the path of an address, ends as an image's does."""
    try:
        path = urlsplit(text).path if is_url(text) else text
    except ValueError:
        return False
    return path.lower().endswith(_ENDINGS)


def _rows(file: Path) -> Iterable[Mapping[str, Any]]:
    """The first rows; none where they can't be read, which the reader of the whole table tells."""
    if file.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet

        try:
            batch = next(pyarrow.parquet.ParquetFile(file).iter_batches(_LOOKED_AT), None)
            return [] if batch is None else batch.to_pylist()
        except (pa.ArrowException, OSError, ValueError):  # text that is no UTF-8 is a ValueError
            return []
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return list(islice(csv.DictReader(lines), _LOOKED_AT))
    except (UnicodeDecodeError, csv.Error, OSError):
        return []
