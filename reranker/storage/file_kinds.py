"""The first bytes of a file that does not hold what it should → what it is instead, and what to do, as a hint."""

from __future__ import annotations

_KINDS = (
    (b"\xff\xfe\x00\x00", "it is UTF-32: save it as UTF-8"),
    (b"\xff\xfe", "it is UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "it is UTF-16: save it as UTF-8"),
    (b"\x1f\x8b", "it is packed by gzip: unpack it"),
    (b"PK\x03\x04", "it is a zip, or an Excel file: unpack it, or save it as CSV"),
    (b"PAR1", "it is Parquet: call it .parquet"),
    (b"BZh", "it is packed by bzip2: unpack it"),
    (b"\xfd7zXZ", "it is packed by xz: unpack it"),
    (b"\x28\xb5\x2f\xfd", "it is packed by zstd: unpack it"),
    (b"SQLite format 3", "it is an SQLite database: export the table"),
    (b"\x89PNG", "it is an image"),
    (b"\xff\xd8\xff", "it is an image"),
    (b"%PDF", "it is a PDF"),
    (b"\x7fELF", "it is a program"),
    (b"<!doctype html", "it is a web page: what was to be fetched is not there, or asks for a login"),
    (b"<html", "it is a web page: what was to be fetched is not there, or asks for a login"),
    (b"version https://git-lfs", "it is a pointer of Git LFS: git lfs pull fetches the file"),
)
OTHER_MARKS = (";", "\t", "|")  # that tables are written with, in place of commas
_LONGEST = max(len(start) for start, _ in _KINDS)


def what_it_is(head: bytes) -> str:
    """The hint; empty if nothing of the kind begins so.

    >>> what_it_is(b"\\x1f\\x8b\\x08")
    'it is packed by gzip: unpack it'
    """
    start = head.removeprefix(b"\xef\xbb\xbf")[:_LONGEST].lstrip().lower()
    return next((hint for kind, hint in _KINDS if start.startswith(kind.lower())), "")
