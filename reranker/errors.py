"""A fault as data, and the project's exceptions: each states the rule, the value, and whose fault it is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

_LONGEST = 200  # characters of a value or of a field's name in a sentence


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with an input, and where."""

    rule: str  # what should hold, as a sentence
    file: str = ""
    line: int | None = None  # 1-based
    field: str = ""
    value: object = None
    hint: str = ""  # the nearest valid name, or the next step

    def __str__(self) -> str:
        where = self.file + (f":{self.line}" if self.line is not None else "")
        head = ": ".join(part for part in (where, _cut(self.field)) if part)
        got = "" if self.value is None else f" (got {_cut(repr(self.value))})"
        hint = f"; {self.hint}" if self.hint else ""
        return f"{head}: {self.rule}{got}{hint}" if head else f"{self.rule}{got}{hint}"


class RerankerError(Exception):
    """Any failure that the project understands. `exit_code` is 2 for a fault that the user can fix, 1 for ours."""

    exit_code = 2


class InputError(RerankerError, ValueError):
    """The user's input breaks rules; carries all faults, not just the first.

    Args:
        faults: in the order of the file; must not be empty.
        total: how many there are, if `faults` holds only the first ones.
    """

    def __init__(self, faults: Iterable[Fault], total: int | None = None) -> None:
        self.faults = tuple(faults)
        if not self.faults:
            raise ValueError("an InputError needs at least one fault")
        self.total = len(self.faults) if total is None else total
        lines = [str(fault) for fault in self.faults]
        if self.total > len(self.faults):
            lines.append(f"… and {self.total - len(self.faults)} more like these")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type, tuple[tuple[Fault, ...], int]]:
        return type(self), (self.faults, self.total)


class EnvironmentFault(RerankerError, OSError):
    """The machine lacks what the run needs: no file, no permission, no space, no port, no network."""


class TrainingError(RerankerError, RuntimeError):
    """A training run ended without a result; the message states the cause in one sentence."""

    exit_code = 1


class OutOfMemory(TrainingError):
    """A forward or backward pass did not fit the device.

    Args:
        micro_batch: examples in the pass that did not fit.
    """

    def __init__(self, micro_batch: int) -> None:
        self.micro_batch = micro_batch
        super().__init__(f"out of memory at micro batch {micro_batch}")

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.micro_batch,)


class TrainingStopped(RerankerError):
    """A training run was asked to stop, and did so before the end of an epoch."""


class SealedError(RerankerError, LookupError):
    """Test items were requested from sealed data, which lack them."""

    exit_code = 1


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint that names the closest valid spelling, or lists what is valid when nothing is close."""
    options = sorted(valid)
    return close_to(name, options) or "valid: " + ", ".join(options)


def close_to(name: str, valid: Iterable[str]) -> str:
    """A hint that names the closest valid spelling; empty when nothing is close."""
    close = difflib.get_close_matches(name[:_LONGEST], sorted(valid), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


def json_kind(value: object) -> str:
    """What a value is, as JSON calls it.

    >>> json_kind(None), json_kind([1])
    ('null', 'a list')
    """
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    kinds = {str: "text", dict: "an object", list: "a list", int: "a number", float: "a number"}
    return kinds.get(type(value), type(value).__name__)


def first_line(error: BaseException) -> str:
    """The first line of its message, or its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def minutes_or_seconds(seconds: float) -> str:
    """A duration in a sentence: no minute that is a few seconds reads as 0 minutes.

    >>> minutes_or_seconds(3.25), minutes_or_seconds(90)
    ('3.2 s', '1.5 minutes')
    """
    return f"{seconds:.2g} s" if seconds < 60 else f"{seconds / 60:.1f} minutes"
