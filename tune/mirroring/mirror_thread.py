"""A search while it runs → its trackers brought up to the folder, each in a thread of its own, and once more at the end."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from reranker.command_line.redaction import masked
from reranker.errors import RerankerError

_LOOK_S = 4.0  # between two looks at what was asked in a tracker's pages
_LONG_S = 60.0  # of one attempt, after which the user is told of it


class Mirror(Protocol):
    """Brings one tracker up to one study's folder, which is the record. Whatever the tracker has already is not sent
    again."""

    def bring_up(self, *, ended: bool = False) -> None:
        """Send what the tracker lacks; with `ended` also what the study has found.

        Raises:
            Exception: the tracker does not take it. Nothing is lost: ask again.
        """


class LateMirror:
    """A mirror that is made by the thread that first uses it, with the packages that it needs."""

    def __init__(self, make: Callable[[], Mirror]) -> None:
        self._make = make
        self._mirror: Mirror | None = None

    def bring_up(self, *, ended: bool = False) -> None:
        """See `Mirror`."""
        self._mirror = self._mirror or self._make()
        self._mirror.bring_up(ended=ended)


class MirrorThread:
    """Mirrors the study in a thread while the search runs, so that a slow or absent tracker never holds it up.

    Args:
        name: of the tracker, as people read it.
        listen: looks at what was asked in the tracker's pages, every few seconds; None: nobody looks.
        told_by: exceptions of the tracker's whose words were made for users.

    Attributes:
        say: told when the tracker begins to lack something or takes long, and when it has everything again.
        trouble: why the tracker does not have everything; empty when it does.
    """

    def __init__(
        self,
        name: str,
        mirror: Mirror,
        say: Callable[[str], None] = lambda line: None,
        *,
        listen: Callable[[], None] | None = None,
        told_by: tuple[type[Exception], ...] = (),
    ) -> None:
        self.name, self._mirror, self._listen, self._told_by = name, mirror, listen, told_by
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{name} mirror", daemon=True)
        self.say, self.trouble = say, ""

    def start(self) -> None:
        """Begin to bring the tracker up to the folder, in a thread of its own."""
        self._thread.start()

    def nudge(self) -> None:
        """Something new is in the folder."""
        self._wake.set()

    def end(self) -> None:
        """Have it deliver the rest, without waiting for that."""
        self._stop.set()
        self._wake.set()

    def finish(self, timeout_s: float = 60) -> bool:
        """Deliver the rest; False where the tracker would not have it (`trouble` says why)."""
        self.end()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.trouble = self.trouble or "it did not answer in time"
        return not self.trouble

    def _run(self) -> None:
        closed = False
        while not self._stop.is_set():
            woken = self._wake.wait(timeout=_LOOK_S)
            self._wake.clear()
            ended = self._stop.is_set()
            if woken:
                closed = self._attempt(ended=ended) and ended
            if not ended and not self.trouble and self._listen is not None:
                self._listen()
            time.sleep(0.2)  # several reports become one pass
        if not closed:
            self._attempt(ended=True)

    def _attempt(self, *, ended: bool) -> bool:
        try:
            with self._telling_of_delay():
                self._mirror.bring_up(ended=ended)
        except Exception as error:  # noqa: BLE001, a search goes on, and its user learns that the tracker lacks something
            before, self.trouble = self.trouble, cause_of_failure(error, self._told_by)
            if not before:
                traceback.print_exc()
                self.say(
                    f"{self.name} does not have everything ({self.trouble}); the search goes on, and sends it again"
                )
            return False
        if self.trouble:
            self.say(f"{self.name} has everything again")
        self.trouble = ""
        return True

    @contextmanager
    def _telling_of_delay(self) -> Iterator[None]:
        """Say when this takes long, and when it is over: a store that hangs raises nothing."""
        told = threading.Event()

        def tell() -> None:
            told.set()
            self.say(f"{self.name} takes long, over {_LONG_S:.0f} s so far; the search does not wait for it")

        timer = threading.Timer(_LONG_S, tell)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        if told.is_set() and not self.trouble:
            self.say(f"{self.name} is done with it")


class Trackers:
    """All trackers of a study, each in its thread.

    Args:
        threads: of the trackers.
        beside: of what is nudged and told as they are, and outlives them: others finish it.
    """

    def __init__(self, threads: Sequence[MirrorThread], beside: Sequence[MirrorThread] = ()) -> None:
        self._threads, self._all = threads, [*threads, *beside]

    def start(self) -> None:
        """Begin to bring them up to the folder."""
        for thread in self._all:
            thread.start()

    def nudge(self) -> None:
        """Something new is in the folder."""
        for thread in self._all:
            thread.nudge()

    def tell(self, say: Callable[[str], None]) -> None:
        """Whom to tell of their troubles from now on."""
        for thread in self._all:
            thread.say = say

    def finish(self, timeout_s: float = 60) -> dict[str, str]:
        """Deliver the rest to all at once; by name, why a tracker does not have everything."""
        ends = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.end()
        return {
            thread.name: thread.trouble
            for thread in self._threads
            if not thread.finish(max(0.0, ends - time.monotonic()))
        }


def cause_of_failure(error: Exception, told_by: tuple[type[Exception], ...] = ()) -> str:
    """In a line, with the kind of the error where its own words were not made for a user.

    Args:
        told_by: further exceptions whose words were.
    """
    first = masked((str(error).strip() or type(error).__name__).splitlines()[0])
    return first if isinstance(error, (OSError, RerankerError, *told_by)) else f"{type(error).__name__}: {first}"
