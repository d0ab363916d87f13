"""Times → those that are in another unit than most: seconds and milliseconds in one file would stand in no order."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")  # each a thousand times the next
_FROM, _BEFORE = 631_152_000, 4_102_444_800  # in seconds: 1990 and 2100
_NONE = -1


def unit_rule(most: int, other: int) -> str:
    """What a time breaks that is in another unit than most; both as places in `UNITS`."""
    return f"times must be of one unit: most are {UNITS[most]} since 1970, this is in {UNITS[other]}"


def units_of(times: ArrayLike) -> NDArray[np.int8]:
    """Of each time the place in `UNITS` of the unit in which it is from 1990 to 2099; -1 if there is none."""
    numbers = np.asarray(times, dtype=np.float64)
    units = np.full(numbers.shape, _NONE, dtype=np.int8)
    for place in range(len(UNITS)):
        units[(numbers >= _FROM * 1000.0**place) & (numbers < _BEFORE * 1000.0**place)] = place
    return units


def in_another_unit(times: ArrayLike) -> tuple[int, NDArray[np.int8]]:
    """The unit that most times are in, and of each time its unit if that is another one, else -1.

    Numbers of which some lie between the units count something else than the time since 1970: then none is another.
    Those below all units, such as 0 for a time that is not known, tell nothing.
    """
    numbers, units = np.asarray(times, dtype=np.float64), units_of(times)
    if not len(units) or ((units == _NONE) & (numbers >= _FROM)).any():
        return _NONE, np.full(units.shape, _NONE, dtype=np.int8)
    most = int(np.bincount(units[units != _NONE], minlength=len(UNITS)).argmax())
    return most, np.where(units == most, _NONE, units)
