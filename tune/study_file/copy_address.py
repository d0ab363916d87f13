"""The address of a study's copy on an object store or in another folder → its parts. Light: no pyarrow.

Options stand behind a question mark, as `pyarrow.fs.FileSystem.from_uri` takes them: `s3://bucket/folder?region=eu-west-1`.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from reranker.command_line.redaction import masked

_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file")
_SHAPE = re.compile(
    rf"(?:{'|'.join(_SCHEMES)})://[^\s\x00-\x1f?#]*[^\s\x00-\x1f?#/][^\s\x00-\x1f?#]*(?:\?[^\s\x00-\x1f#]+)?"
)
_SECRET = (
    "must not have a user, password or key in it: those come from where the store's own commands find them, "
    "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)


def is_copy_address(text: str) -> bool:
    """Whether it is meant as one, and not as a study's name or folder."""
    return text.partition("://")[0] in _SCHEMES and "://" in text


def checked_address(text: str) -> str:
    """The address without slashes at its end.

    Raises:
        ValueError: it is none, or holds a secret; does not repeat it.
    """
    if not _SHAPE.fullmatch(text) or (text.startswith("file://") and not text.startswith("file:///")):
        raise ValueError("must be an address such as s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or file:///FOLDER")
    if masked(text) != text or "@" in text.partition("?")[0].partition("://")[2].partition("/")[0]:
        raise ValueError(_SECRET)
    place, options = _parts(text)
    return place + options


def child_address(address: str, name: str) -> str:
    """The address of what is called `name` in the folder at `address`.

    >>> child_address("s3://bucket/studies?region=eu-west-1", "demo")
    's3://bucket/studies/demo?region=eu-west-1'
    """
    place, options = _parts(address)
    return f"{place}/{quote(name)}{options}"


def split_address(address: str) -> tuple[str, str]:
    """The address of the folder that something is in, and its name there; the name is empty if it is in none.

    >>> split_address("s3://bucket/studies/demo?region=eu-west-1")
    ('s3://bucket/studies?region=eu-west-1', 'demo')
    """
    place, options = _parts(address)
    scheme, _, path = place.partition("://")
    parent, slash, name = path.rpartition("/")
    return (f"{scheme}://{parent}{options}", unquote(name)) if slash and parent else (address, "")


def _parts(address: str) -> tuple[str, str]:
    place, mark, options = address.partition("?")
    return place.rstrip("/"), mark + options
