"""A value of a published record, perhaps HTML, perhaps a list of lists → plain text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

_TAG = re.compile(r"<[^>]*>")


def plain(value: object) -> str:
    """Text without HTML; of a list, however deep, its different entries after each other."""
    return ", ".join(dict.fromkeys(text for entry in _leaves(value) if (text := _without_html(entry))))


def _leaves(value: object) -> Iterator[object]:
    waiting = [value]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, list):
            waiting.extend(reversed(entry))
        elif entry is not None:
            yield entry


def _without_html(value: object) -> str:
    text = str(value).replace("\0", "")
    if "<" in text:
        text = _TAG.sub(" ", text)
    return html.unescape(text).strip() if "&" in text else text.strip()
