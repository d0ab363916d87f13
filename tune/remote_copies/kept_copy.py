"""A study's folder → its copy, brought up while the search runs and once more at its end."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import uuid

from reranker.errors import EnvironmentFault
from reranker.storage.atomic_files import DamagedFile, read_json, write_json
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tune.mirroring.mirror_thread import MirrorThread
from tune.remote_copies.folder_snapshot import FolderSnapshot, Stamp, stamp_of
from tune.remote_copies.remote_folder import RemoteFolder, StoreFault

HOLDER = "copy.json"  # there: which launch keeps the copy
_KNOWN = "copied.json"  # here: what the copy has
_REST_S = 60.0  # between two passes that bring reports and logs too
ENDED = (TrialStatus.COMPLETED, TrialStatus.PRUNED, TrialStatus.FAILED)
_OURS = ("trials/", "baselines/", "refit/", "quarantine/")


class KeptCopy:
    """Brings the copy up to the folder, as often as it is asked to: see `tune.mirroring.mirror_thread.Mirror`.

    Files whose size, time of change or inode is another than when they were sent are sent again; what is gone here is
    removed there.

    Args:
        there: the copy's own folder.
    """

    def __init__(self, study: StudyFolder, there: RemoteFolder) -> None:
        self.study, self.there = study, there
        self._sent: dict[str, tuple[Stamp, int]] | None = None  # by name, with the bytes that were sent
        self._settled: set[str] = set()
        self._rest_sent = -_REST_S
        self._launch, self._holds = uuid.uuid4().hex, False

    def bring_up(self, *, ended: bool = False) -> None:
        """
        Raises:
            StoreFault: the store does not take it, or another search has taken the copy over.
        """
        self._hold()
        sent = self._sent = known_there(self.study, self.there) if self._sent is None else self._sent
        if "ending.json" in sent and not (self.study.path / "ending.json").exists():
            self._remove("ending.json")  # the search goes on
        rest = ended or time.monotonic() - self._rest_sent >= _REST_S
        stamps = {name: stamp for name, (stamp, _) in sent.items()}
        look = FolderSnapshot(self.study.path, stamps, frozenset() if ended else frozenset(self._settled), rest=rest)
        settled = set()
        try:
            for one in look.changed():
                with one.content:
                    self.there.write(one.name, one.content)
                sent[one.name] = (one.stamp, one.size)
            for name in self._gone(look.present):
                self._remove(name)
            settled = self._ended_trials()
        finally:
            if rest:
                remember(self.study, self.there, sent)
        self._settled = settled
        self._rest_sent = time.monotonic() if rest else self._rest_sent

    def _hold(self) -> None:
        """Where two searches kept one copy, it would be neither's: the later launch has it."""
        if not self._holds:
            facts = {"launch": self._launch, "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            self.there.write_bytes(HOLDER, json.dumps(facts).encode())
            self._holds = True
            return
        holder: dict[str, str] = json.loads(self.there.read(HOLDER) or b"{}")
        if holder.get("launch", self._launch) != self._launch:
            raise StoreFault(
                f"another search of this study keeps it, on {holder.get('host')} since {holder.get('since')}"
            )

    def _gone(self, present: set[str]) -> list[str]:
        """What the copy has and the folder no longer, what others depend on last."""
        assert self._sent is not None
        skipped = tuple(f"trials/{name}/" for name in self._settled)
        gone = [name for name in self._sent if name not in present and not name.startswith(skipped)]
        gone = [name for name in gone if not (self.study.path / name).exists()]
        return sorted(
            gone, key=lambda name: (not name.endswith(("/files.json", "/status.json", "/epochs.jsonl")), name)
        )

    def _remove(self, name: str) -> None:
        assert self._sent is not None
        self.there.remove(name)
        self._sent.pop(name, None)

    def _ended_trials(self) -> set[str]:
        """The trials whose end the copy knows; their folders do not change any more while the search runs."""
        assert self._sent is not None
        ended = set(self._settled)
        for number in self.study.numbers():
            folder = self.study.trial(number).path
            name = f"trials/{folder.name}/status.json"
            if folder.name in ended or name not in self._sent:
                continue
            with contextlib.suppress(DamagedFile, OSError):
                status = TrialStatus(self.study.read_status(number)["status"])
                is_sent = stamp_of(folder / "status.json") == self._sent[name][0]
                if status in ENDED and is_sent and not self.study.trial(number).states():  # dropped after the status
                    ended.add(folder.name)
        return ended


def usable_place(copy_to: str | None) -> RemoteFolder | None:
    """The folder for studies' copies, tried; None where none is named.

    Raises:
        StoreFault: it can't be reached or written.
    """
    if copy_to is None:
        return None
    there = RemoteFolder.at(copy_to)
    there.check()
    return there


def copy_thread(study: StudyFolder, copy_to: RemoteFolder) -> MirrorThread:
    """The thread that keeps a copy of the study in a folder of its name."""
    there = copy_to.child(study.path.name)
    return MirrorThread(f"The copy at {there}", KeptCopy(study, there))


def check_copy(study: StudyFolder, there: RemoteFolder) -> None:
    """Check that a copy can be brought up to this folder without losing anything.

    Raises:
        StoreFault: it can't be read.
        EnvironmentFault: it is of another study, or has what the folder has not.
    """
    theirs = there.read(study.journal.name)
    if theirs is None:
        return
    match compared(study, theirs):
        case "behind":
            raise EnvironmentFault(
                f"the copy at {there} is further along than {study.path}: go on with it where this folder is not, "
                f"with --resume {there}"
            )
        case "other":
            raise EnvironmentFault(
                f"the copy at {there} is of another study, or has gone on from another folder than {study.path}; "
                "name another place with --copy-to"
            )


def compared(study: StudyFolder, theirs: bytes) -> str:
    """How a study's journal stands to a copy's: `same`, `ahead` or `behind` it, or `other`."""
    mine = study.journal.read_bytes() if study.journal.exists() else b""
    mine, theirs = (content[: content.rfind(b"\n") + 1] for content in (mine, theirs))
    if mine == theirs:
        return "same"
    return "ahead" if mine.startswith(theirs) else "behind" if theirs.startswith(mine) else "other"


def known_there(study: StudyFolder, there: RemoteFolder) -> dict[str, tuple[Stamp, int]]:
    """What the copy has, with the stamps of what was sent; a stamp that no file has where that is not known."""
    listing, known = there.listing(), {}
    with contextlib.suppress(DamagedFile, KeyError, TypeError, ValueError):
        stored = read_json(study.path / _KNOWN)
        if stored["address"] == there.address:
            known = {name: ((int(a), int(b), int(c)), int(size)) for name, (a, b, c, size) in stored["files"].items()}
    unknown: tuple[Stamp, int] = ((-1, -1, -1), -1)
    return {
        name: known[name] if name in known and known[name][1] == size else unknown
        for name, size in listing.items()
        if name in known or name.startswith(_OURS)
    }


def remember(study: StudyFolder, there: RemoteFolder, sent: dict[str, tuple[Stamp, int]]) -> None:
    """Keep for the next launch what the copy has; without it all is sent again."""
    files = {name: [*stamp, size] for name, (stamp, size) in sent.items()}
    with contextlib.suppress(EnvironmentFault):
        write_json(study.path / _KNOWN, {"address": there.address, "files": files})
