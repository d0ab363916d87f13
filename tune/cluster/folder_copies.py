"""A folder of the driver's machine → a copy on a node that does not share its storage, and what changes there sent back.

A copy is fetched when a job begins, and sent back at each report: whole files, in such an order that a kill between two
leaves what it could have left had they been written there. A training state counts only when it is whole
(`TrialFolder.last_state`), and a report by its line, so the list of a state and the lines come after all else.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray

from reranker.storage.atomic_files import write_file
from reranker.storage.file_permissions import make_folder

_PREFIX = "reranker-copy-"
_LAST = (
    "epochs.jsonl",
    "files.json",
)  # without its line a report does not count, nor a training state without its list


@dataclass(frozen=True)
class FolderChanges:
    """What to do to a folder: write these files, by their paths in it, in this order; then remove those."""

    written: tuple[tuple[str, bytes], ...] = ()
    removed: tuple[str, ...] = ()

    def apply(self, folder: Path) -> None:
        """
        Raises:
            EnvironmentFault: a file can't be written.
        """
        for name, content in self.written:
            write_file(folder / name, content)
        for name in self.removed:
            (folder / name).unlink(missing_ok=True)
        for name in sorted({str(Path(name).parent) for name in self.removed}, reverse=True):
            if name != "." and (folder / name).is_dir() and not any((folder / name).iterdir()):
                (folder / name).rmdir()


def content_of(folder: Path) -> FolderChanges:
    """All that a folder holds, as changes to an empty one."""
    return FolderChanges(tuple((name, (folder / name).read_bytes()) for name in _stamps(folder)))


@dataclass
class FolderCopy:
    """One folder's copy on this machine.

    Args:
        original: its path on the driver's machine.
        place: its path here.
    """

    original: Path
    place: Path
    _sent: dict[str, tuple[int, int]] = field(default_factory=dict)

    def fetch(self, content: FolderChanges) -> None:
        """Make the copy what the original is."""
        make_folder(self.place)
        content.apply(self.place)
        self._sent = _stamps(self.place)

    def changes(self) -> FolderChanges:
        """What has changed here since the last call."""
        now = _stamps(self.place)
        new = [name for name, stamp in now.items() if self._sent.get(name) != stamp]
        gone = [name for name in self._sent if name not in now]
        self._sent = now
        return FolderChanges(tuple((name, (self.place / name).read_bytes()) for name in new), tuple(gone))


@dataclass
class FolderCopies:
    """Copies of some folders, which go through the mailbox of a slot on the driver's machine."""

    mailbox: Any
    copies: list[FolderCopy]

    @staticmethod
    def of(originals: list[Path], mailbox: Any) -> FolderCopies:
        """Fetch them into a folder of this process's own."""
        _clear_abandoned()
        home = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        copies = [FolderCopy(path, home / str(number) / path.name) for number, path in enumerate(originals)]
        for copy in copies:
            copy.fetch(ray.get(mailbox.read_folder.remote(copy.original)))
        return FolderCopies(mailbox, copies)

    def place_of(self, original: Path) -> Path:
        """Where the copy of a folder is."""
        return next(copy.place for copy in self.copies if copy.original == original)

    def send_back(self) -> None:
        """Bring the originals up to the copies.

        Raises:
            EnvironmentFault: they can't be written there.
        """
        for copy in self.copies:
            changes = copy.changes()
            if changes.written or changes.removed:
                try:
                    ray.get(self.mailbox.change_folder.remote(copy.original, changes))
                except ray.exceptions.RayTaskError as error:
                    raise (error.cause or error) from error

    def drop(self) -> None:
        """Remove the copies."""
        for copy in self.copies:
            shutil.rmtree(copy.place.parents[1], ignore_errors=True)


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Of each file but temporary ones its size and time: the oldest first, and those last that make the rest count."""
    stamps = {}
    for path in _files(folder):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # replaced meanwhile
        stamps[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns)
    # What makes the rest count comes last whatever the clock says, which may have been set back.
    return dict(sorted(stamps.items(), key=lambda entry: (Path(entry[0]).name in _LAST, entry[1][1])))


def _files(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.endswith(".tmp") for part in path.relative_to(folder).parts):
            yield path


def _clear_abandoned() -> None:
    """Remove copies of processes that are gone."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = path.name.removeprefix(_PREFIX).partition("-")[0]
        if path.stat().st_uid == os.getuid() and owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(path, ignore_errors=True)
