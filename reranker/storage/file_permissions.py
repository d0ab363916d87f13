"""Who may open what this program makes: its user alone, or, if asked, the user's group. Nobody else.

Study folders, caches and logs hold what a user's data hold: titles, ids, ranks.
"""

from __future__ import annotations

import os
from pathlib import Path

from reranker.errors import Fault, InputError

SHARE = "RERANKER_TUNER_SHARE"  # the variable that opens them to the group; a umask may still take that away


def file_mode() -> int:
    """The mode of a new file: 0600, or 0660 where `$RERANKER_TUNER_SHARE` is `group`."""
    return 0o660 if _is_shared() else 0o600


def opener(path: str, flags: int) -> int:
    """For `open`: a file that it makes has the mode of `file_mode`."""
    return os.open(path, flags, file_mode())


def make_file(path: Path) -> None:
    """Make an empty file where there is none, for a library that would make it for everybody to read.

    Raises:
        OSError: it can't be made.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, file_mode()))


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each with the mode 0700, or 0770; one that is there stays.

    Raises:
        OSError: it can't be made.
    """
    if not path.parent.exists():
        make_folder(path.parent)
    path.mkdir(mode=0o770 if _is_shared() else 0o700, exist_ok=True)


def _is_shared() -> bool:
    """
    Raises:
        InputError: the variable says neither that it is shared nor nothing.
    """
    if (text := os.environ.get(SHARE, "")) not in ("", "group"):
        raise InputError([Fault("must be group, or empty", field=SHARE, value=text)])
    return text == "group"
