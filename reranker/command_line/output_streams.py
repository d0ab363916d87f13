"""A text stream → the same, but safe to write to after its terminal or pipe is closed, or its disk is full; or without
secrets."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any, TextIO, cast

from reranker.command_line.redaction import masked


def outliving(stream: TextIO) -> TextIO:
    """A stream that ignores failed writes: output must never stop the work that it reports."""
    return cast(TextIO, _Outliving(stream))


class _Around(io.TextIOBase):
    """What a stream around another one has of it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def closed(self) -> bool:
        """Whether the stream behind is: libraries ask this before they write to a stream that they kept."""
        return self._stream.closed

    def isatty(self) -> bool:
        return not self.closed and self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> Any:  # type: ignore[override]
        return self._stream.encoding


class _Outliving(_Around):
    def write(self, text: str) -> int:
        with self._tolerant():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._tolerant():
            self._stream.flush()

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # the reader is gone, or the stream is closed
            with contextlib.suppress(OSError, ValueError):  # so that its buffer fails no later flush
                leave(self._stream.fileno())


def masking(stream: TextIO) -> TextIO:
    """A stream for a log: what is written is kept back until its line ends, and then written with secrets masked."""
    return cast(TextIO, _Masking(stream))


class _Masking(_Around):
    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._line = ""

    def write(self, text: str) -> int:
        self._line += text
        whole, newline, self._line = self._line.rpartition("\n")
        if newline:
            self._stream.write(masked(whole + newline))
        return len(text)

    def flush(self) -> None:
        if not self._stream.closed:
            self._stream.flush()

    def close(self) -> None:
        """Write what is kept back; the stream behind stays open."""
        if self._line and not self._stream.closed:
            self._stream.write(masked(self._line))
        self._line = ""


def leave(descriptor: int) -> None:
    """From now on, discard what is written to this descriptor."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
