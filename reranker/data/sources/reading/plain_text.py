"""A value of a published record, perhaps HTML, perhaps a list of lists → plain text."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator

_TAG = re.compile(r"<[a-zA-Z/!][^>]*>")  # no tag is in "ages < 5 and > 2", nor in "I <3 it -> ever"


def plain(value: object) -> str:
    """Text without HTML; of a list, however deep, its different entries after each other."""
    return ", ".join(dict.fromkeys(text for entry in _leaves(value) if (text := _without_html(entry))))


def whole_letters(text: str) -> str:
    """Text that UTF-8 can hold: halves of a letter, which JSON may escape, are joined, or replaced where one is missing.

    >>> whole_letters("a \\ud83d\\ude00 and \\ud83d")
    'a 😀 and �'
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _leaves(value: object) -> Iterator[object]:
    waiting = [value]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, list):
            waiting.extend(reversed(entry))
        elif entry is not None and not (isinstance(entry, float) and math.isnan(entry)):  # Python writes NaN as JSON
            yield entry


def _without_html(value: object) -> str:
    text = whole_letters(str(value).replace("\0", ""))
    if "<" in text:
        text = _TAG.sub(" ", text)
    return html.unescape(text).strip() if "&" in text else text.strip()
