"""A text stream → the same, for whom nobody need be there: a terminal that is closed, a pipe, or a disk that is full."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any, TextIO, cast


def outliving(stream: TextIO) -> TextIO:
    """Writes to this stream as long as somebody takes it: what is said is never worth ending the work it is about."""
    return cast(TextIO, _Outliving(stream))


class _Outliving(io.TextIOBase):
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._tolerant():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._tolerant():
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> Any:  # type: ignore[override]
        return self._stream.encoding

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # the other end is gone, or the stream is closed
            with contextlib.suppress(OSError, ValueError):  # so that what is still in its buffer fails nobody later
                leave(self._stream.fileno())


def leave(descriptor: int) -> None:
    """Let what is written there go nowhere from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
