"""A number as text → whether a program has shortened it: 1.23457E+15 stands for many ids and times."""

from __future__ import annotations

import re

SHORT = r"\s*\d(?:\.(\d+))?[eE]\+(\d{2,3})\s*"  # a few digits and an exponent
_SHORT = re.compile(SHORT)


def is_shortened(text: str) -> bool:
    """Whether it is a number of a few digits and an exponent.

    >>> is_shortened("4.51E+15"), is_shortened("me+you"), is_shortened("1e5")
    (True, False, False)
    """
    return "+" in text and _SHORT.fullmatch(text) is not None


def lacks_digits(text: str) -> bool:
    """Whether it has fewer digits than it had, as spreadsheets shorten numbers. Not R's 1.5e+09.

    >>> lacks_digits("1.71717E+12"), lacks_digits("1.717171717E+09"), lacks_digits("1.5e+09")
    (True, False, False)
    """
    match = _SHORT.fullmatch(text) if "E+" in text else None
    return match is not None and len(match[1] or "") < int(match[2])
