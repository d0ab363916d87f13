"""A study's folder while it is written → the files to copy, in an order in which a copy that is cut off anywhere is a
study to go on with.

What is written first must be in the copy first: ranks before the line that reports them, that line before the journal
knows of it, the journal before a trial's status. What depends on others is read before them, since they may be ahead of
it and never behind: so statuses are read first and sent last.

    read  ending, readings, study file, statuses · journal · manifest · a trial's states · its lines · its ranks, adapter …
    sent  ranks, adapters, baselines · lines · states · study file · manifest · journal · statuses · readings · ending

A file of readings is wanted wherever there is a journal, so the first one is sent before it. Reports and logs come last.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_JOURNAL, _MANIFEST, _LINES, _STATUS = "optuna.log", "manifest.json", "epochs.jsonl", "status.json"
_STUDY, _READINGS, _ENDING = "study.yaml", "test_readings.jsonl", "ending.json"
_EARLY = ("lists.parquet", "items.parquet", "left_out.jsonl", "acts.jsonl", "readings_lost.json")
_EARLY_FOLDERS = ("baselines", "quarantine", "refit")
_OF_THIS_MACHINE = ("search.lock", "tracking_uri.json", "copied.json", "copy.json", "stop.json", "lock")
_OF_THIS_MACHINE_FOLDERS = ("control", "ray", "mlartifacts")  # requests to this process, Tune's own, an older store
_LARGE = 2**20  # bytes of a file that is kept open in place of being read at once
_ENDINGS = (".tmp", ".lock", ".db", ".db-journal", ".db-wal", ".db-shm")

Stamp = tuple[int, int, int]  # bytes, time of change in ns, inode: files are replaced, so a new one has another


@dataclass(frozen=True)
class Snapshot:
    """
    Attributes:
        name: the file's path in the study's folder.
        stamp: as it was when it was opened.
        size: bytes of `content`; of files of lines it has whole ones only.
        content: to be read once, and closed.
    """

    name: str
    stamp: Stamp
    size: int
    content: BinaryIO


class FolderSnapshot:
    """One look at a study's folder, taken file by file.

    Args:
        known: the stamps of files that need not be copied again.
        settled: trials that have ended and were copied since, by the names of their folders; not looked at.
        rest: whether reports, logs and trackers' files are copied too, which no verdict depends on.

    Attributes:
        present: the files that are there, once `changed` has been through; those of settled trials are not among them.
    """

    def __init__(
        self, study: Path, known: Mapping[str, Stamp], settled: frozenset[str] = frozenset(), *, rest: bool = True
    ) -> None:
        self._study, self._known, self._rest = study, known, rest
        self.present: set[str] = set()
        self._settled = settled

    def changed(self) -> Iterator[Snapshot]:
        """The files that are new or have changed, in the order in which they are to be sent."""
        ending, readings, study_file = self._now(_ENDING), self._now(_READINGS), self._now(_STUDY)
        statuses = [one for trial in self._trials() for one in self._now(f"{trial}/{_STATUS}")]
        record = [*self._now(_JOURNAL), *self._now(_MANIFEST)]
        for folder in _EARLY_FOLDERS:
            yield from self._each(self._files(folder))
        yield from self._each(_EARLY)
        for trial in self._trials():  # again: the journal may know one that has begun since
            yield from self._trial(trial)
        is_first = _READINGS not in self._known
        yield from [*study_file, *(readings if is_first else []), *reversed(record)]
        yield from [*statuses, *([] if is_first else readings), *ending]
        rest = self._others()
        self.present.update(name for name in rest if (self._study / name).is_file())
        if self._rest:
            yield from self._each(rest)

    def _trials(self) -> list[str]:
        folder = self._study / "trials"
        found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        return [f"trials/{name}" for name in found if name not in self._settled]

    def _trial(self, trial: str) -> Iterator[Snapshot]:
        files = [name for name in self._files(trial) if name != f"{trial}/{_STATUS}"]
        states = [name for name in files if name.split("/")[2].startswith("state-")]
        opened = [one for name in states for one in self._now(name)]
        lines = self._now(f"{trial}/{_LINES}")
        # a state that was replaced meanwhile is not whole, and counts as none; the next look finds the new one
        others = [
            name for name in self._files(trial) if name not in states and Path(name).name not in (_LINES, _STATUS)
        ]
        yield from self._each(name for name in others if not name.split("/")[2].startswith("state-"))
        yield from [*lines, *sorted(opened, key=lambda one: one.name.endswith("/files.json"))]

    def _others(self) -> list[str]:
        """Top-level files and folders that have no place in the order."""
        placed = {_JOURNAL, _MANIFEST, _STUDY, _READINGS, _ENDING, *_EARLY, *_EARLY_FOLDERS, "trials"}
        names = sorted(entry.name for entry in os.scandir(self._study) if entry.name not in placed)
        return [name for top in names for name in self._files(top)]

    def _files(self, place: str) -> list[str]:
        """Files in a folder of the study's, or the file itself, but for those that are of this machine alone."""
        top = self._study / place
        if _is_left_out(place.split("/")) or top.is_symlink():
            return []
        if top.is_file():
            return [place]
        found = []
        for folder, folders, files in os.walk(top):
            here = Path(folder).relative_to(self._study)
            folders[:] = sorted(name for name in folders if not _is_left_out((*here.parts, name)))
            names = (str(here / name) for name in sorted(files) if not _is_left_out((*here.parts, name)))
            found += [name for name in names if not (self._study / name).is_symlink()]
        return found

    def _each(self, names: Iterator[str] | tuple[str, ...] | list[str]) -> Iterator[Snapshot]:
        for name in names:
            yield from self._now(name)

    def _now(self, name: str) -> list[Snapshot]:
        """The file as it is now, if it has changed; its content stays, whatever replaces it."""
        path = self._study / name
        try:
            found = stamp_of(path)
            self.present.add(name)
            if self._known.get(name) == found:
                return []
            content = path.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            return []  # replaced or removed meanwhile
        status = os.fstat(content.fileno())
        stamp = (status.st_size, status.st_mtime_ns, status.st_ino)
        grows = name.endswith((".jsonl", ".log"))
        if status.st_size > _LARGE and not grows:
            return [Snapshot(name, stamp, status.st_size, content)]
        with content:
            whole = content.read(status.st_size)
        if name == _JOURNAL or name.endswith(".jsonl"):
            whole = whole[: whole.rfind(b"\n") + 1]
        return [Snapshot(name, stamp, len(whole), io.BytesIO(whole))]


def stamp_of(path: Path) -> Stamp:
    """Another one, once the file was replaced or has grown."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _is_left_out(parts: tuple[str, ...] | list[str]) -> bool:
    name = parts[-1]
    return (
        (len(parts) == 1 and name in _OF_THIS_MACHINE_FOLDERS)
        or name in _OF_THIS_MACHINE
        or name.startswith(".")
        or name.endswith(_ENDINGS)
    )
