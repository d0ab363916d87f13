"""Timestamps, and when the validation and the test begin → which of each user's items lie before either."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from reranker.data_config import DataConfig, Moment, is_share
from reranker.errors import Fault, InputError

Times = NDArray[np.integer] | NDArray[np.floating]
_TICKS = (1, 10**3, 10**6, 10**9)  # a second's, in the units that timestamps come in
_CALENDAR_S = 1e8, 4_102_444_800  # March 1973 and 2100: other numbers count something else than seconds since 1970


@dataclass(frozen=True, eq=False)
class Periods:
    """A global split by time: three periods, the same for all users.

    Attributes:
        validation_from, test_from: when the second and the third period begin, as shown to people.
        before_validation, before_test: int64 [users], how many of each user's items are earlier.
    """

    validation_from: str
    test_from: str
    before_validation: NDArray[np.int64]
    before_test: NDArray[np.int64]

    def __str__(self) -> str:
        return f"training before {self.validation_from}, validation from then to before {self.test_from}, test from then on"


def periods_of(times: Times, sizes: NDArray[np.integer], config: DataConfig) -> Periods:
    """The periods of filtered interactions.

    A share is turned into the time of the interaction that comes after this share of them all, so that interactions of
    one time lie in one period.

    Args:
        times: of every interaction, user by user.
        sizes: how many interactions each user has, [users].

    Raises:
        InputError: the times are all the same, the test does not begin after the validation, or a period is empty.
    """
    clock = _Clock.of(times)
    if clock.first == clock.last:
        rule = f"a split by time needs timestamps that differ; all {len(times)} are {clock.shown(clock.first)}"
        raise InputError([Fault(rule, field="data.split", value="time", hint="take leave_one_out")])
    begins = config.period_begins
    undated = [
        Fault(
            f"a date needs timestamps that count from 1970; these run from {clock.shown(clock.first)} to {clock.shown(clock.last)}",
            field=f"data.{name}",
            value=moment,
            hint="give a share, such as 0.8, or one of the timestamps",
        )
        for name, moment in begins.items()
        if isinstance(moment, str) and not clock.ticks
    ]
    if undated:
        raise InputError(undated)
    validation_from, test_from = (clock.time_of(moment, times) for moment in begins.values())
    faults = _order_faults(times, validation_from, test_from, clock, begins)
    if faults:
        raise InputError(faults)
    users = np.repeat(np.arange(len(sizes)), sizes)
    before_validation, before_test = (
        np.bincount(users[times < begin], minlength=len(sizes)) for begin in (validation_from, test_from)
    )
    return Periods(clock.shown(validation_from), clock.shown(test_from), before_validation, before_test)


def _order_faults(
    times: Times, validation_from: float, test_from: float, clock: _Clock, begins: dict[str, Moment]
) -> list[Fault]:
    """What is wrong with the two times; each fault says what would work."""
    names = {name: f"data.{name}" for name in begins}
    shown, hint = clock.shown, f"the interactions run from {clock.shown(clock.first)} to {clock.shown(clock.last)}"
    if validation_from >= test_from:
        rule = f"the validation must begin before the test, which begins on {shown(test_from)}"
        return [Fault(rule, field=names["validation_from"], value=begins["validation_from"], hint=hint)]
    faults = []
    if not (times < validation_from).any():
        rule = f"there must be interactions before the validation, which begins on {shown(validation_from)}"
        faults.append(Fault(rule, field=names["validation_from"], value=begins["validation_from"], hint=hint))
    if not ((times >= validation_from) & (times < test_from)).any():
        rule = f"there must be interactions between {shown(validation_from)} and {shown(test_from)}, the validation"
        faults.append(Fault(rule, field=names["validation_from"], value=begins["validation_from"], hint=hint))
    if not (times >= test_from).any():
        rule = f"there must be interactions in the test, which begins on {shown(test_from)}"
        faults.append(Fault(rule, field=names["test_from"], value=begins["test_from"], hint=hint))
    return faults


@dataclass(frozen=True)
class _Clock:
    """What the timestamps mean.

    Attributes:
        first, last: of them all.
        ticks: units in a second, of times since 1970; 0 if the numbers are something else, such as places in an order, or
            20180630.
    """

    first: float
    last: float
    ticks: int

    @staticmethod
    def of(times: Times) -> _Clock:
        low, high = _CALENDAR_S
        last, usual = times.max().item(), float(np.median(times))  # the last may stand for no time: 99999999999
        fitting = (ticks for time in (last, usual) for ticks in _TICKS if low * ticks <= time < high * ticks)
        return _Clock(times.min().item(), last, next(fitting, 0))

    def time_of(self, moment: Moment, times: Times) -> float:
        """The moment in the timestamps' unit."""
        if isinstance(moment, str):
            date = datetime.fromisoformat(moment)
            since = (date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
            ticks, rest = divmod(since // timedelta(microseconds=1) * self.ticks, 10**6)
            return ticks + rest / 10**6 if rest else ticks
        if is_share(moment):
            place = min(int(round(moment * len(times), 6)), len(times) - 1)  # 0.29 of 100 is 29
            boundary: float = np.partition(times, place)[place].item()
            return boundary
        return moment

    def shown(self, time: float) -> str:
        """For people: a date where the timestamps are some, else the number."""
        if not self.ticks:
            return f"{time:.15g}"  # all digits: whoever moves a period needs them
        seconds = time / self.ticks
        try:
            date = datetime.fromtimestamp(seconds, UTC)
        except (OverflowError, ValueError, OSError):
            return f"{time:.15g}"
        return f"{date:%Y-%m-%d}" if seconds % 86_400 == 0 else f"{date:%Y-%m-%d %H:%M:%S}"
