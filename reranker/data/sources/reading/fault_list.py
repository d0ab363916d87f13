"""The faults of a file, as they are found → one error with the first of them and their number."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.errors import Fault, InputError

_SHOWN_FAULTS = 20


@dataclass
class FaultList:
    """The faults of one file: the first 20 by line, and the total count."""

    file: str
    shown: list[Fault] = field(default_factory=list)
    total: int = 0

    def add(self, rule: str, line: int | None = None, column: str = "", value: object = None, hint: str = "") -> None:
        """Add one fault, see `Fault`."""
        self._keep([Fault(rule, self.file, line, column, value, hint)], 1)

    def add_rows(self, rule: str, column: str, values: pd.Series[Any], bad: NDArray[np.bool_]) -> None:
        """Add a fault for each bad row; the index of `values` holds the lines."""
        bad_values = values[bad].iloc[:_SHOWN_FAULTS]
        rows = [Fault(rule, self.file, int(str(line)), column, value) for line, value in bad_values.items()]
        self._keep(rows, int(bad.sum()))

    def _keep(self, faults: list[Fault], count: int) -> None:
        self.total += count
        self.shown = sorted([*self.shown, *faults], key=lambda fault: fault.line or 0)[:_SHOWN_FAULTS]


def raise_faults(*lists: FaultList) -> None:
    """Raise the faults of all lists, if any.

    Raises:
        InputError: with the shown faults of every list, and the total count.
    """
    shown = [fault for faults in lists for fault in faults.shown]
    if shown:
        raise InputError(shown, total=sum(faults.total for faults in lists))
