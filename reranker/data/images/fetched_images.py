"""An image's address → a file in the cache folder, fetched once, within limits of size and time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from reranker.storage.atomic_files import write_file
from reranker.storage.cache_folder import cache_folder
from reranker.storage.file_permissions import make_folder
from reranker.storage.limits import IMAGE_BYTES

_WAIT_S = 10  # for an answer, and for each part of it
_MOST_S = 30  # for all of it
_PART = 1 << 16  # bytes
_WRITTEN = "!#$%&'()*+,/:;=?@[]~"  # signs of an address that stand for themselves


def is_url(text: str) -> bool:
    """Whether it is an address rather than a path."""
    return "://" in text


def fetched(url: str, check: Callable[[bytes], object]) -> Path:
    """The file that was fetched from this address, now or before.

    Args:
        check: raises ValueError of what is no image: a page that says so, or half of one. That is not kept, and asked for again
            the next time.

    Raises:
        ValueError: the address is none, or what it gives breaks a limit or the check; the message is the rule.
        OSError: it cannot be kept.
    """
    path = cache_folder() / "images" / "fetched" / hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
    if not path.is_file():
        content = _content(url)
        check(content)
        make_folder(path.parent)
        write_file(path, content)
    return path


def _content(url: str) -> bytes:
    try:
        parts = urlsplit(url)
        if parts.scheme.lower() not in ("http", "https"):
            raise ValueError("scheme")
        written = urlunsplit([*parts[:2], *(quote(part, _WRITTEN) for part in parts[2:])])  # été → %C3%A9t%C3%A9
        request = Request(written, headers={"User-Agent": "reranker-tuner"})
    except ValueError:
        raise ValueError("an image's address must begin with http:// or https://") from None
    latest = time.monotonic() + _MOST_S
    content = bytearray()
    try:
        with urlopen(request, timeout=_WAIT_S) as answer:
            while part := answer.read1(_PART):
                content += part
                if len(content) > IMAGE_BYTES.most:
                    raise ValueError(IMAGE_BYTES.rule("an image"))
                if time.monotonic() > latest:
                    raise ValueError(f"an image must arrive within {_MOST_S} s")
    except HTTPError as error:
        raise ValueError(f"an image must be where its address says: HTTP {error.code}") from None
    except (URLError, HTTPException, OSError, UnicodeError) as error:  # the last of a host's name that is none
        reason = getattr(error, "reason", None) or error
        raise ValueError(f"an image must be where its address says: {reason}") from None
    return bytes(content)
