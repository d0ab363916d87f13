"""Ctrl-C, budgets, and what is asked by `control` → which trials may begin, which must stop, and when the search
ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import numpy as np
from ray.exceptions import RayActorError

from reranker.errors import EnvironmentFault, InputError
from reranker.metrics import values_of
from reranker.report_figures import best_report, on_all_lists
from results.statistics.lists_of_users import ListsOfUsers
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from results.study.trial_origin import DRAWN, Origin, OriginKind
from tune.execution import ray_private
from tune.execution.failure_cause import MACHINE, SLOT_GONE, EndsAtOnce, cluster_fault, machine_fault
from tune.execution.trial_messages import Assignment
from tune.execution.worker_group import LEAVE_S
from tune.searching import stop_pause_requests
from tune.searching.stop_signals import handling, said_elsewhere
from tune.searching.trial_store import TrialStore
from tune.study_file.study import Study

INTERRUPTED = "interrupted"
TOO_MANY_FAILURES = "too many trials failed"


class StopRules:
    """Looked at before each trial and at each turn of Tune's loop; acts through the study's folder.

    What earlier launches have counted is counted again from the ledger and the folder, so that a search that was killed
    ends where an undisturbed one does.

    Attributes:
        ending: why no further trial may begin; empty while they may.
        out_of_patience: whether that is because trials brought no gain.
    """

    def __init__(self, study: Study, folder: StudyFolder, trial_store: TrialStore, say: Callable[[str], None]) -> None:
        self._study, self._folder, self._trial_store, self._say = study, folder, trial_store, say
        self._running: set[int] = set()
        self._origins: dict[int, Origin] = {}
        self._started = time.monotonic()
        self._best: float | None = None
        self._since_best = 0  # trials that ended since one was better by more than the metric's noise
        self._noise = 0.0
        self._signalled = False
        self._polled = False
        self.ending = ""
        self.out_of_patience = False
        for number, status in trial_store.ended():
            self._origins[number] = trial_store.origin(number)
            self._count(number, status)
        if self.paused:  # nobody waits any more for what was paused
            folder.paused.unlink(missing_ok=True)
            folder.record_act("resumed: the search was paused when it ended")
            say("the search was paused when it ended; it goes on now")

    @property
    def paused(self) -> bool:
        """Whether no trial may begin, nor go on after its next report."""
        return self._folder.paused.exists()

    def origin(self, number: int) -> Origin:
        """How a trial came to be."""
        return self._origins.get(number, DRAWN)

    def starts(self, assignment: Assignment, origin: Origin) -> None:
        """Count a trial among those that run, and tell of the draws that none was made of before it."""
        while self._trial_store.passed_over:
            act = self._trial_store.passed_over.pop(0)
            self._folder.record_act(act)
            self._say(act)
        self._running.add(assignment.number)
        self._origins[assignment.number] = origin

    def ended(self, number: int, status: TrialStatus) -> None:
        """Count it towards the limits on failures and on trials without a gain; a replicate is not to bring one."""
        self._running.discard(number)
        self._count(number, status)
        self._hold_to_limits()

    def machine_failed(self, what: str) -> None:
        """End the search at once, and leave what runs as it is: it goes on from its last state another time."""
        raise EndsAtOnce(what)

    @contextmanager
    def minding_the_machine(self) -> Iterator[None]:
        """Around Tune's loop: a fault of the machine ends the search and shuts Ray down, whoever comes upon it.

        Tune raises what a slot's process has died of. Nothing of a trial runs in there, so it is never the trial's
        fault.
        """
        try:
            yield
        except EndsAtOnce as fault:
            self._give_up(fault.what)
        except Exception as error:
            what = cluster_fault() or machine_fault(error) or (SLOT_GONE if isinstance(error, RayActorError) else "")
            if not what:
                raise
            self._give_up(what)

    def poll(self) -> None:
        """Take up a fault of the machine, a signal, the end of the time, and what was asked by `control`."""
        if what := cluster_fault():  # here, since within its own calls Ray makes of any exception a Ctrl-C
            self.machine_failed(what)
        if not self._polled:
            self._polled = True
            self._hold_to_limits()
        if self._signalled:
            self._end(INTERRUPTED)
        limit = self._study.time_budget_s
        if limit is not None and time.monotonic() - self._started > limit:
            self._end(f"the time budget of {self._study.settings.time_budget} is used up")
        for request in stop_pause_requests.take_up(self._folder):
            try:
                answer = self._act(request)
            except InputError as error:
                stop_pause_requests.answer(self._folder, request, str(error), accepted=False)
                continue
            self._folder.record_act(f"{answer} ({request.by})")
            self._say(answer)
            stop_pause_requests.answer(self._folder, request, answer)

    def close(self) -> str:
        """Write down why the search ended, and return it; empty if nothing is left to resume."""
        left = self._trial_store.left()  # a fault of the machine leaves even the last trial as it is
        complete = not left and (not self.ending or self._trial_store.asked() >= self._study.settings.trials)
        with suppress(EnvironmentFault):  # a disk that is full: what was found must be told all the same
            self._folder.write_ending("" if complete else self.ending, complete)
        return "" if complete else self.ending

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM or a closed terminal once ends the search cleanly, twice at once."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._signalled:
                with suppress(EnvironmentFault):
                    self._folder.write_ending(INTERRUPTED, complete=False)
                raise KeyboardInterrupt
            self._signalled = True
            say(
                f"stopping: running trials end at their next step, or after {LEAVE_S:.0f} s at the latest; --resume goes on with "
                "them from their last state. A second Ctrl-C stops at once"
            )

        with said_elsewhere(self._say) as say, handling(on_signal):
            yield

    def _give_up(self, what: str) -> None:
        self.ending, self.out_of_patience = f"{MACHINE}: {what}", False
        ray_private.shut_down()
        with suppress(EnvironmentFault):
            self._folder.record_act(self.ending)

    def _end(self, reason: str) -> None:
        if self.ending and not self.out_of_patience:
            return
        self.ending, self.out_of_patience = reason, False
        self._folder.record_act(reason)
        if reason != INTERRUPTED:
            self._say(f"ending: {reason}")
        for number in self._running:
            self._folder.ask_to_stop(number, TrialStatus.CANCELLED, reason)

    def _hold_to_limits(self) -> None:
        settings = self._study.settings
        failures = self._trial_store.failures()
        if settings.max_failures is not None and failures >= settings.max_failures:
            self._end(f"{TOO_MANY_FAILURES}: {failures} (max_failures)")
        if settings.patience is not None and self._since_best >= settings.patience and not self.ending:
            noise = f"the noise of {self._study.metric}, {self._noise:.3f}"
            trials = f"{self._since_best} trial{'s' * (self._since_best != 1)}"
            self._end(f"{trials} in a row brought no gain above {noise} (patience)")
            self.out_of_patience = True

    def _count(self, number: int, status: TrialStatus) -> None:
        """Patience: trials in a row whose best report is not above the best so far by more than its standard error."""
        if self._study.settings.patience is None or self.origin(number).kind is OriginKind.REPLICATE:
            return
        if status not in (TrialStatus.COMPLETED, TrialStatus.PRUNED):
            return
        metric, sign = self._study.metric, -1 if self._study.mode == "min" else 1
        folder = self._folder.trial(number)
        figures = best_report(folder.read_reports(), metric)
        best = sign * figures[metric] if figures is not None and on_all_lists(figures) else None
        self._noise = 0.0
        if best is not None and not metric.endswith("_loss"):
            users, ranks = folder.read_ranks()
            in_order = np.argsort(users, kind="stable")
            self._noise = ListsOfUsers.of(sorted(users)).error(values_of(ranks, metric)[in_order])
        if best is not None and (self._best is None or best > self._best + self._noise):
            self._best, self._since_best = best, 0
        else:
            self._since_best += 1

    def _act(self, request: stop_pause_requests.Request) -> str:
        if request.act == "pause":
            self._folder.paused.touch()
            return "paused: running trials wait at their next report, none begins"
        if request.act == "resume":
            self._folder.paused.unlink(missing_ok=True)
            return "resumed"
        if (number := request.trial) is not None:
            if number not in self._running:
                running = ", ".join(map(str, sorted(self._running))) or "none"
                raise stop_pause_requests.refusal(f"trial {number} is not running; running: {running}")
            if request.act == "keep":
                self._folder.keep(number)
                return f"trial {number} goes on to its last epoch, whatever the scheduler decides"
            self._folder.ask_to_stop(number, TrialStatus.PRUNED, "stopped by hand")
            return f"trial {number} stops at its next step, {LEAVE_S:.0f} s from now at the latest"
        self._trial_store.enqueue(
            self._study.parameters(request.values, "control add"), Origin(OriginKind.ADDED), extra=True
        )
        shown = ", ".join(f"{knob}={value}" for knob, value in request.values.items())
        return f"added, to be tried next: {shown}"
