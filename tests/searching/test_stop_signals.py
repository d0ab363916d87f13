"""Signals that ask for an end, at moments when Python ignores what a handler raises."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
import weakref
from typing import Any

import pytest

from tune.searching.stop_signals import end_at_once, handling, said_elsewhere


class Something:
    """An object whose end has a callback."""


def send_within_a_callback(number: signal.Signals) -> None:
    """As within an import, where Python calls one for each module."""

    def signalled(reference: weakref.ref[Something]) -> None:
        os.kill(os.getpid(), number)
        for _ in range(1000):  # the handler runs at one of these
            pass

    thing = Something()
    reference = weakref.ref(thing, signalled)
    del thing
    assert reference() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_is_not_lost_where_what_a_handler_raises_is_ignored(number, capsys):
    def search() -> None:
        with handling(end_at_once):
            send_within_a_callback(number)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        search()
    assert capsys.readouterr().err == ""


def test_a_handler_that_waits_for_a_second_signal_is_called_once(capsys):
    calls = []
    with handling(lambda number, frame: calls.append(number)):
        send_within_a_callback(signal.SIGTERM)
        time.sleep(0.2)
    assert calls == [signal.SIGTERM]


def test_other_faults_that_python_ignores_are_told_as_ever(monkeypatch):
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    def broken(reference: weakref.ref[Something]) -> None:
        raise ValueError("broken")

    thing = Something()
    with handling(end_at_once):
        reference = weakref.ref(thing, broken)
        del thing
    assert reference() is None
    assert [str(fault.exc_value) for fault in told] == ["broken"]


def test_everything_is_afterwards_as_it_was():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers], sys.unraisablehook
    with handling(end_at_once):
        pass
    assert ([signal.getsignal(number) for number in numbers], sys.unraisablehook) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_handler_speaks_though_the_stream_was_being_written_to():
    written: list[bytes] = []

    class Interrupted(io.RawIOBase):
        """A terminal at whose first write Ctrl-C comes."""

        def writable(self) -> bool:
            return True

        def write(self, text: Any) -> int:
            if not written:
                written.append(bytes(text))
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(1000):  # the handler runs at one of these
                    pass
            else:
                written.append(bytes(text))
            return len(text)

    stream = io.TextIOWrapper(io.BufferedWriter(Interrupted()), write_through=True)

    def say(line: str) -> None:
        stream.write(f"{line}\n")
        stream.flush()

    with said_elsewhere(say) as speak, handling(lambda number, frame: speak("stopping")):
        say("trial 1 started")
    assert b"".join(written) == b"trial 1 started\nstopping\n"
