"""Ctrl-C, budgets, and what is asked by `control` → which trials may begin, which must stop, and when the search ends."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from reranker.errors import InputError
from reranker.metrics import per_list
from results.contenders import REPLICATE
from results.study_folder import StudyFolder, TrialStatus
from tune import control
from tune.ledger import Ledger
from tune.search_space import Study

INTERRUPTED = "interrupted"
TOO_MANY_FAILURES = "too many trials failed"


class Conductor:
    """Looked at before each trial and at each turn of Tune's loop; acts through the study's folder.

    Attributes:
        ending: why no further trial may begin; empty while they may.
        out_of_patience: whether that is because trials brought no gain.
    """

    def __init__(self, study: Study, folder: StudyFolder, ledger: Ledger, say: Callable[[str], None]) -> None:
        self._study, self._folder, self._ledger, self._say = study, folder, ledger, say
        self._running: set[int] = set()
        self._origins: dict[int, str] = {}
        self._started = time.monotonic()
        self._failures = 0
        self._best: float | None = None
        self._since_best = 0  # trials that ended since one was better by more than the metric's noise
        self._signalled = False
        self.ending = ""
        self.out_of_patience = False

    @property
    def paused(self) -> bool:
        return self._folder.paused.exists()

    def origin(self, number: int) -> str:
        return self._origins.get(number, "")

    def starts(self, number: int, values: dict[str, Any], origin: str) -> None:
        self._running.add(number)
        self._origins[number] = origin
        # Before Tune knows of it, so that a kill from here on finds it in the folder as well.
        self._folder.start_trial(number, values, origin)

    def ended(self, number: int, status: TrialStatus) -> None:
        """Count it towards the limits on failures and on trials without a gain; a replicate is not to bring one."""
        self._running.discard(number)
        self._failures += status is TrialStatus.FAILED
        most = self._study.settings.max_failures
        if most is not None and self._failures >= most:
            self._end(f"{TOO_MANY_FAILURES}: {self._failures} (max_failures)")
        if status in (TrialStatus.COMPLETED, TrialStatus.PRUNED) and not self.origin(number).startswith(REPLICATE):
            self._count_gain(number)

    def poll(self) -> None:
        """Take up a signal, the end of the time, and what was asked by `control`."""
        if self._signalled:
            self._end(INTERRUPTED)
        limit = self._study.time_budget_s
        if limit is not None and time.monotonic() - self._started > limit:
            self._end(f"the time budget of {self._study.settings.time_budget} is used up")
        for request in control.take_up(self._folder):
            try:
                answer = self._act(request)
            except InputError as error:
                control.answer(self._folder, request, str(error), accepted=False)
                continue
            self._folder.record_act(f"{answer} (control)")
            self._say(answer)
            control.answer(self._folder, request, answer)

    def close(self) -> str:
        """Write down why the search ended, and return it; empty if nothing is left to resume."""
        left = self._ledger.interrupted() or self._ledger.waiting()
        complete = not left and (not self.ending or self._ledger.asked() >= self._study.settings.trials)
        self._folder.write_ending("" if complete else self.ending, complete)
        return "" if complete else self.ending

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C or SIGTERM once ends the search cleanly, twice at once."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._signalled:
                self._folder.write_ending(INTERRUPTED, complete=False)
                raise KeyboardInterrupt
            self._signalled = True
            self._say("stopping: running trials end at their next step; once more to end at once")

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, reason: str) -> None:
        if self.ending:
            return
        self.ending = reason
        self._folder.record_act(reason)
        if reason != INTERRUPTED:
            self._say(f"ending: {reason}")
        for number in self._running:
            self._folder.ask_to_stop(number, TrialStatus.CANCELLED, reason)

    def _count_gain(self, number: int) -> None:
        """Patience: trials in a row whose best epoch is not above the best so far by more than its standard error."""
        patience = self._study.settings.patience
        if patience is None:
            return
        metric, sign = self._study.metric, -1 if self._study.mode == "min" else 1
        folder = self._folder.trial(number)
        best = max((sign * figures[metric] for figures in folder.read_epochs()), default=None)
        noise = 0.0
        if best is not None and not metric.endswith("_loss"):
            values = per_list(folder.read_ranks()[1])[metric]
            noise = float(values.std(ddof=1) / math.sqrt(len(values)))
        if best is not None and (self._best is None or best > self._best + noise):
            self._best, self._since_best = best, 0
            return
        self._since_best += 1
        if self._since_best >= patience and not self.ending:
            self.out_of_patience = True
            self._end(f"{patience} trials in a row brought no gain above the noise of {metric}, {noise:.3f} (patience)")

    def _act(self, request: control.Request) -> str:
        if request.act == "pause":
            self._folder.paused.touch()
            return "paused: running trials wait at their next epoch, none begins"
        if request.act == "resume":
            self._folder.paused.unlink(missing_ok=True)
            return "resumed"
        if request.act == "stop":
            number = request.trial
            if number not in self._running:
                running = ", ".join(map(str, sorted(self._running))) or "none"
                raise control.refusal(f"trial {number} is not running; running: {running}")
            self._folder.ask_to_stop(number, TrialStatus.PRUNED, "stopped by hand")
            return f"trial {number} stops at its next step"
        self._ledger.enqueue(self._study.parameters(request.values, "control add"), "added", extra=True)
        shown = ", ".join(f"{knob}={value}" for knob, value in request.values.items())
        return f"added, to be tried next: {shown}"
