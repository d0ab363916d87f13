"""Ctrl-C, SIGTERM and a closed terminal → what the search does about them. Light: no Ray."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType
from typing import Any

from reranker.command_line.output_streams import leave

_AGAIN_S = 0.05


def end_at_once(number: int, frame: FrameType | None) -> None:
    """What a signal does before and after the search itself."""
    raise KeyboardInterrupt


@contextmanager
def handling(on_signal: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Every signal that asks for an end, handled by this; but for a hang-up that `nohup` has us ignore.

    After a hang-up nothing is written to the terminal any more, which is gone. Python ignores what is raised within its
    own callbacks (an import has some), so a handler that is cut off there is called again.
    """
    terminals = [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]

    def on_hang_up(number: int, frame: FrameType | None) -> None:
        for descriptor in terminals:
            leave(descriptor)
        on_signal(number, frame)

    def on_ignored(what: Any) -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        else:
            ignored_before(what)

    handlers: dict[signal.Signals, Any] = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGALRM), on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handlers[signal.SIGHUP] = on_hang_up
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    ignored_before, sys.unraisablehook = sys.unraisablehook, on_ignored
    try:
        yield
    finally:
        sys.unraisablehook = ignored_before
        if not callable(before[signal.SIGALRM]):  # no outer handler that would take it
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def said_elsewhere(say: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """What a handler may call instead of `say`: another thread says it.

    A signal may come within a write to the very stream that `say` writes to, and Python refuses to enter one twice
    ("reentrant call"); a thread waits until that write is done. Of all queues, only `SimpleQueue` may be put to there.
    """
    lines: SimpleQueue[str | None] = SimpleQueue()

    def listen() -> None:
        while (line := lines.get()) is not None:
            say(line)

    thread = threading.Thread(target=listen, name="said-elsewhere", daemon=True)
    thread.start()
    try:
        yield lines.put
    finally:
        lines.put(None)
        thread.join()
