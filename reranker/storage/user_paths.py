"""A path as a user wrote it → a path that is valid for the system."""

from __future__ import annotations

import os
from pathlib import Path

from reranker.errors import EnvironmentFault

_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes, on every common file system


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path, with a leading ~ expanded to the home folder; it need not exist.

    Raises:
        ValueError: no file can have such a path.
    """
    path = os.fspath(text)
    if not path:
        raise ValueError("a path must not be empty")
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise ValueError("a path must not hold NUL or another control character")
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError("a path must be text that can be written in UTF-8") from None
    if len(encoded) > _LONGEST_PATH or any(len(name) > _LONGEST_NAME for name in encoded.split(b"/")):
        raise ValueError(f"a path's names must have at most {_LONGEST_NAME} bytes each, and {_LONGEST_PATH} together")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError("~ must stand for a user's home folder, and there is no such user") from None


def path_in(variable: str) -> Path | None:
    """The path that an environment variable holds, expanded; None where it holds none.

    Raises:
        EnvironmentFault: no file can have such a path.
    """
    if not (text := os.environ.get(variable)):
        return None
    try:
        return user_path(text)
    except ValueError as error:
        raise EnvironmentFault(f"the variable {variable}: {error} (got {text!r})") from None
