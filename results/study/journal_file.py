"""Optuna's journal as a file whose every line carries a checksum. Takes a second to import, as Optuna does.

Optuna's own lines have none: a digit that a disk has changed would be another score. Other programs that read journals,
such as optuna-dashboard, pass over the checksum; lines of studies begun before have none.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

_CHECKSUM = "checksum"


class ChangedLine(ValueError):
    """A line of a journal is not what was written."""


class JournalFile(JournalFileBackend):  # type: ignore[misc]
    """Optuna's journal in a file; see `JournalFileBackend`."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines, each with its checksum."""
        super().append_logs([{**log, _CHECKSUM: _checksum(log)} for log in logs])

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The lines from this one on.

        Raises:
            ChangedLine: one is not what was written.
        """
        for number, log in enumerate(super().read_logs(log_number_from), start=log_number_from + 1):
            if not isinstance(log, dict):
                raise ChangedLine(f"line {number} is not what was written")
            checksum = log.pop(_CHECKSUM, None)
            if checksum is not None and checksum != _checksum(log):
                raise ChangedLine(f"line {number} is not what was written")
            yield log


def storage(path: Path) -> Any:
    """Optuna's storage in this file, which is made if it is missing."""
    return JournalStorage(JournalFile(str(path)))


def begun(path: Path) -> datetime | None:
    """When the first trial of the study in this file began, local time; None if none has."""
    if not path.is_file():  # Optuna would make it
        return None
    starts = (log.get("datetime_start") for log in JournalFile(str(path)).read_logs(0))
    first = next(filter(None, starts), None)
    return datetime.fromisoformat(first).astimezone() if first else None


def _checksum(log: dict[str, Any]) -> str:
    as_read = json.loads(json.dumps(log))  # numbers that are keys become text, which sorts otherwise
    return f"{zlib.crc32(json.dumps(as_read, sort_keys=True).encode()):08x}"
