"""A text stream → the same, but safe to write to after its terminal or pipe is closed, or its disk is full."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any, TextIO, cast


def outliving(stream: TextIO) -> TextIO:
    """A stream that ignores failed writes: output must never stop the work that it reports."""
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
        except (OSError, ValueError):  # the reader is gone, or the stream is closed
            with contextlib.suppress(OSError, ValueError):  # so that its buffer fails no later flush
                leave(self._stream.fileno())


def leave(descriptor: int) -> None:
    """From now on, discard what is written to this descriptor."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
