"""What libraries, in Python or not, write to this process's output → the study's `driver.log`; the terminal is ours."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from reranker.command_line.output_streams import masking
from reranker.errors import RerankerError
from reranker.storage.file_permissions import opener


def own_stdout() -> TextIO:
    """This process's standard output, for what the user shall see whatever becomes of the descriptor."""
    try:
        if sys.stdout.fileno() != 1:
            return sys.stdout
    except (OSError, ValueError):
        return sys.stdout
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    return os.fdopen(os.dup(1), "w", encoding=encoding, errors=errors, buffering=1)


class DriverLog:
    """Takes everything that is written to descriptors 1 and 2, first in a temporary file, then in the study's log.

    Attributes:
        path: where it is written.
    """

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="reranker-", suffix=".log")
        self.path = Path(name)
        self._temporary = True
        self._file = os.fdopen(handle, "a", encoding="utf-8", errors="replace", buffering=1)
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor in (1, 2):
            with suppress(OSError):  # a process may have none
                self._undo.callback(_restore(descriptor, os.dup(descriptor)))
        for redirect in (redirect_stdout, redirect_stderr):
            stream = masking(self._file)  # what does not come by way of Python's streams is not masked
            self._undo.callback(stream.close)
            self._undo.enter_context(redirect(stream))
        self._point()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError, ValueError):
            self._undo.close()
            self._file.flush()
        with suppress(OSError):
            self._file.close()
        fully_told = isinstance(error, RerankerError) and error.__cause__ is None  # in full
        if self._temporary and (kind is None or fully_told):
            self.path.unlink(missing_ok=True)

    def keep_in(self, folder: Path) -> None:
        """From here on write into a study's log, which gets what was written before as well."""
        kept = folder / "driver.log"
        with open(kept, "a", encoding="utf-8", errors="replace", opener=opener) as log:
            log.write(self.path.read_text(encoding="utf-8", errors="replace"))
        # The file object stays the same, since loggers hold on to it.
        handle = os.open(kept, os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, self._file.fileno())
        os.close(handle)
        if self._temporary:
            self.path.unlink(missing_ok=True)
        self.path, self._temporary = kept, False
        self._point()

    def _point(self) -> None:
        for descriptor in (1, 2):
            with suppress(OSError):
                os.dup2(self._file.fileno(), descriptor)


def _restore(descriptor: int, kept: int) -> Callable[[], None]:
    def restore() -> None:
        os.dup2(kept, descriptor)
        os.close(kept)

    return restore
