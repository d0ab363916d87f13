"""Trackers beside a search: each brought up in its own thread; one that fails or hangs costs the others nothing."""

from __future__ import annotations

import threading

from tune.mirroring import mirror_thread
from tune.mirroring.mirror_thread import LateMirror, MirrorThread, Trackers


class Recording:
    """Takes everything, but for what it is told to refuse."""

    def __init__(self, *refusals: Exception) -> None:
        self.refusals, self.passes, self.threads = list(refusals), list[bool](), set[str]()
        self.came = threading.Event()

    def bring_up(self, *, ended: bool = False) -> None:
        self.threads.add(threading.current_thread().name)
        try:
            if self.refusals:
                raise self.refusals.pop(0)
            self.passes.append(ended)
        finally:
            self.came.set()


def test_the_rest_is_delivered_once_at_the_end_and_never_by_the_search_s_own_thread():
    first, second = Recording(), Recording()
    trackers = Trackers([MirrorThread("A", first), MirrorThread("B", second)])
    trackers.start()
    trackers.nudge()
    assert first.came.wait(30)
    assert trackers.finish() == {}
    for mirror in (first, second):
        assert (mirror.passes[-1], mirror.passes.count(True)) == (True, 1)
        assert threading.current_thread().name not in mirror.threads


def test_one_that_fails_is_told_once_and_again_when_it_has_everything(capsys):
    failing, good, said = Recording(OSError("no space"), OSError("no space")), Recording(), list[str]()
    trackers = Trackers([MirrorThread("TensorBoard", failing), MirrorThread("B", good)])
    trackers.tell(said.append)
    trackers.start()
    for _ in range(2):
        failing.came.clear()
        trackers.nudge()
        assert failing.came.wait(30)
    assert trackers.finish() == {}
    assert said == [
        "TensorBoard does not have everything (no space); the search goes on, and sends it again",
        "TensorBoard has everything again",
    ]
    assert good.passes[-1] is True
    assert capsys.readouterr().err.count("Traceback") == 1


def test_one_that_fails_to_the_end_is_named_with_its_cause():
    trackers = Trackers([MirrorThread("A", Recording(*[KeyError("knobs")] * 9)), MirrorThread("B", Recording())])
    trackers.start()
    assert trackers.finish() == {"A": "KeyError: 'knobs'"}


def test_a_secret_in_a_failure_is_hidden():
    thread = MirrorThread("A", Recording(*[OSError("401 for https://me:hunter2@host, api_key=hunter2")] * 9))
    thread.start()
    assert thread.finish() is False
    assert "hunter2" not in thread.trouble


def test_one_that_takes_long_is_told_and_so_is_its_end(monkeypatch):
    monkeypatch.setattr(mirror_thread, "_LONG_S", 0.05)
    free, said = threading.Event(), list[str]()

    class Slow:
        def bring_up(self, *, ended: bool = False) -> None:
            free.wait(30)

    def say(line: str) -> None:
        said.append(line)
        monkeypatch.setattr(mirror_thread, "_LONG_S", 60.0)
        free.set()

    thread = MirrorThread("MLflow", Slow(), say)
    thread.start()
    thread.nudge()
    assert free.wait(30)
    assert thread.finish()
    assert said == ["MLflow takes long, over 0 s so far; the search does not wait for it", "MLflow is done with it"]


def test_one_that_hangs_is_left_behind_and_costs_the_others_nothing():
    free, good = threading.Event(), Recording()

    class Hanging:
        def bring_up(self, *, ended: bool = False) -> None:
            free.wait()

    trackers = Trackers([MirrorThread("A", Hanging()), MirrorThread("B", good)])
    trackers.start()
    trackers.nudge()
    assert good.came.wait(30)
    assert trackers.finish(timeout_s=1)["A"] == "it did not answer in time"
    free.set()


def test_a_mirror_is_made_by_its_thread_and_a_package_that_breaks_is_a_sentence():
    made, said, tried = list[str](), list[str](), threading.Event()

    def make() -> Recording:
        made.append(threading.current_thread().name)
        tried.set()
        if len(made) == 1:
            raise ImportError("libfoo.so is missing")
        return Recording()

    thread = MirrorThread("A", LateMirror(make), said.append)
    thread.start()
    thread.nudge()
    assert tried.wait(30)
    assert thread.finish() is True
    assert made == ["A mirror", "A mirror"]
    assert said[0].startswith("A does not have everything (ImportError: libfoo.so is missing)")
