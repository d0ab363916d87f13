"""The address of a study's copy → the study in the runs folder, to be gone on with there."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from reranker.errors import EnvironmentFault
from reranker.storage.atomic_files import DamagedFile, sync_folder, writing
from reranker.storage.file_permissions import make_folder
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tune.remote_copies.folder_snapshot import stamp_of
from tune.remote_copies.kept_copy import ENDED, HOLDER, compared, remember
from tune.remote_copies.remote_folder import RemoteFolder, StoreFault
from tune.study_file.copy_address import split_address

_NEEDED = ("manifest.json", "optuna.log")


def fetch_study(address: str, runs: Path, tell: Callable[[str], None]) -> Path:
    """The study's folder here: fetched, unless it is here already and at least as far as its copy.

    Args:
        address: of the copy, with the study's name at its end; see `tune.study_file.copy_address.checked_address`.

    Raises:
        StoreFault: there is no study, or it can't be read.
        EnvironmentFault: here is another study of that name, or one that is not as far.
    """
    name = split_address(address)[1]
    there, here = RemoteFolder.at(address), runs / name
    try:
        top = there.listing(deep=False)
        if absent := [needed for needed in _NEEDED if needed not in top]:
            raise EnvironmentFault(_no_study(there, absent))
        listing = there.listing()
    except StoreFault as fault:
        raise StoreFault(f"{there} can't be read: {fault}") from fault
    if os.path.lexists(here):
        _check_here(StudyFolder(here), there, tell)
        return here
    size = sum(listing.values())
    tell(f"fetching {name} from {there}: {len(listing)} files, {size / 2**20:,.1f} MiB …")
    with writing(here):
        make_folder(runs)
        hidden = StudyFolder(runs.resolve() / f".{name[:40]}.{uuid.uuid4().hex}")
        make_folder(hidden.path)
        try:
            with hidden.locked():
                _fetch(there, listing, hidden)
                hidden.path.rename(here)
        except BaseException:
            shutil.rmtree(hidden.path, ignore_errors=True)
            raise
        sync_folder(runs)
    return here


def _fetch(there: RemoteFolder, listing: dict[str, int], folder: StudyFolder) -> None:
    make_folder(folder.path / "trials")
    sent = {}
    for name, size in listing.items():
        if name == HOLDER or not _is_within(name):
            continue
        target = folder.path / name
        there.fetch(name, target)
        sent[name] = (stamp_of(target), size)
    remember(folder, there, sent)
    for number in folder.numbers():
        with suppress(DamagedFile, ValueError):  # which the check of the study tells
            if TrialStatus(folder.read_status(number)["status"]) in ENDED:
                folder.trial(number).drop_state()  # the copy may have it from just before the end


def _is_within(name: str) -> bool:
    """Whether the path of a file stays in the study's folder; a store may be somebody else's."""
    return all(part not in ("", ".", "..") and "\0" not in part for part in name.split("/"))


def _check_here(study: StudyFolder, there: RemoteFolder, tell: Callable[[str], None]) -> None:
    """
    Raises:
        EnvironmentFault: the folder that is here can't be gone on with in place of the copy.
    """
    match compared(study, there.read(study.journal.name) or b""):
        case "same":
            tell(f"{study.path} is as far as the copy at {there}; the search goes on from the folder")
        case "ahead":
            tell(f"{study.path} is further along than the copy at {there}; the search goes on from the folder")
        case "behind" if study.journal.exists():
            raise EnvironmentFault(
                f"{study.path} is the same study, and behind the copy at {there}; move it away, and the copy is fetched"
            )
        case _:
            raise EnvironmentFault(
                f"{study.path} is another study than that at {there}, or has gone on apart from it; move it away, or "
                "name another folder with --runs"
            )


def _no_study(there: RemoteFolder, absent: list[str]) -> str:
    within = there.folders()
    if len(absent) < len(_NEEDED) or {"baselines", "trials"} & set(within):
        return f"the copy at {there} was cut off before it was whole: it lacks {' and '.join(absent)}, so nothing can go on from it"
    parent, name = split_address(there.address)
    where, found = (
        (there, within) if within or not name else (RemoteFolder.at(parent), RemoteFolder.at(parent).folders())
    )
    return f"there is no study at {there}; in {where} there are: {', '.join(found) or 'none'}"
