"""A Tune trial → a job for a slot: a worker group that outlives the trial, its reports, a cause when it fails.

`make_trainable` is the whole interface between the search and the way in which a trial is run: the search gets a Tune
trainable that takes an assignment and tells the figures of each report (`tune.execution.trial_messages`). Workers wait
at each report until Tune says that the trial goes on, so what is reported never depends on who is faster.

The last result says how the trial ended; a trial that Tune itself stops has no such result. Between two reports there
are results without figures, of what the workers are doing.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.report_figures import epoch_of
from reranker.training.training_status import TrainingStatus
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tune.execution import ray_private
from tune.execution.failure_cause import NODE_GONE, OUT_OF_MEMORY, SHORT_OF_MEMORY, first_line, machine_fault
from tune.execution.trial_messages import Assignment, Ending, TuneConfig, TuneResult, report_result, status_result
from tune.execution.worker_group import LEAVE_S, TrialResources, WorkerGroup
from tune.execution.worker_messages import Event, SmallerPasses, WorkerJob
from tune.study_file.study import Study

_NO_MEMORY = (OUT_OF_MEMORY, SHORT_OF_MEMORY)
_MOST_LOST_NODES = 20  # of one trial, after which something else is wrong
_POLL_S = 0.5  # between two looks at whether the trial shall stop
_ANSWERS_S = 10.0  # that Tune may take to ask for what is next


def make_trainable(study_folder: Path, data: Any, study: Study, resources: TrialResources) -> Any:
    """A Tune trainable that trains each trial in a slot, which a next trial takes over where Tune reuses actors.

    Args:
        data: a reference to the study's `RerankingData` in Ray's object store.
    """
    given = {
        "folder": StudyFolder(study_folder), "data": [data], "study": study, "resources": resources,
    }  # fmt: skip
    trainable = ray_tune.with_parameters(TrialRunner, **given)
    trainable.__qualname__ = TrialRunner.__qualname__  # which Ray's pages show
    return trainable


class TrialRunner(ray_tune.Trainable):  # type: ignore[misc]
    """A worker group and the trial that it trains now."""

    @classmethod
    def default_resource_request(cls, config: TuneConfig) -> ray_tune.PlacementGroupFactory:
        """A sliver of the driver's node: a slot only waits for its workers, and would take a CPU that they need."""
        return ray_tune.PlacementGroupFactory([{ray_private.own_node(): 0.001}])

    def setup(
        self,
        config: TuneConfig,
        *,
        folder: StudyFolder,
        data: list[Any],
        study: Study,
        resources: TrialResources,
    ) -> None:
        """Take the first trial; Tune calls it once an actor."""
        self._study, self._data, self._resources = folder, data[0], resources
        self._base, self._job = study.base(), _job_of(study)
        self._knobs, self._reports_per_epoch = study.knobs, study.reports_per_epoch
        self._group: WorkerGroup | None = None
        self._training = False  # the group has this trial's job
        self._waited_for = False  # the group waits for the answer to a report
        self._begun = False  # the trial has been begun here
        self._fitting: dict[str, SmallerPasses] = {}  # by model, what an earlier trial here had to go down to
        self._lock, self._idle = threading.Lock(), threading.Timer(0, self._send_home)
        self._take(config)
        self._label = f"slot {self._number} of {folder.name}"  # by the first trial that it trains

    def __repr__(self) -> str:
        return getattr(self, "_label", "slot")

    def reset_config(self, new_config: TuneConfig) -> bool:
        """Take the next trial in the same actor."""
        with self._asked():
            self._leave()
            self._take(new_config)
        return True

    def step(self) -> TuneResult:
        """What is next to tell. An exception here would be the search's, and say nothing of whose fault it is."""
        with self._asked():
            ray_private.title_process(self._doing)  # Ray names a process by the method that it runs
            try:
                if not self._begun:
                    self._begin()
                    self._begun = True
                return self._step()
            except Exception as error:  # noqa: BLE001  (told, with its trace)
                traceback.print_exc()
                return _failed(first_line(error), ours=True, machine=machine_fault(error))

    def _step(self) -> TuneResult:
        """The next report's figures: from the folder those that an earlier launch has trained, then new ones."""
        if self._replayed < len(self._stored):
            self._replayed += 1
            return report_result(self._stored[self._replayed - 1], self._config.epochs, replayed=True)
        if not self._training or self._waited_for:
            self._wait_while_paused()
        if (to_stop := self._study.asked_to_stop(self._number)) is not None:
            self._leave()
            return Ending(*to_stop).as_result
        if self._group is None:
            self._group = self._new_group()
            return status_result(TrainingStatus("starting its workers"))
        self._go_on()
        deadline = None
        while True:
            assert self._group is not None
            event = self._group.event(_POLL_S)
            if event is not None and event.kind == "report":
                self._waited_for = True
                self._reports += 1
                return report_result(event.figures, self._config.epochs, replayed=False)
            if event is not None and event.kind == "training_status":
                self._doing = f"trial {self._number} · {event.training_status.text(self._config.epochs)}"
                if to_stop is None:
                    return status_result(event.training_status)
                continue
            if to_stop is None and (to_stop := self._study.asked_to_stop(self._number)) is not None:
                self._group.stop()
                deadline = time.monotonic() + LEAVE_S
            if to_stop is not None and (event is not None or time.monotonic() > (deadline or 0)):
                self._training = False
                if event is None or self._is_lost(event):
                    self._drop_group()
                return Ending(*to_stop).as_result
            if event is not None:
                self._training = False
                if self._is_lost(event):
                    self._drop_group()
                if event.machine and not self._may_go_on(event):
                    return _failed(event.cause, event.ours, event.machine)
                cause = self._mend(event)
                if cause:
                    return _failed(cause, event.ours)
                self._go_on()

    def cleanup(self) -> None:
        """Let go of the trial and of the workers."""
        self._idle.cancel()
        with self._lock:
            self._leave()
            self._drop_group()

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """While Tune asks something. If it then asks nothing for long, idle workers go home: Tune keeps a slot without a
        trial, whose CPUs another one may be waiting for since its own node was lost."""
        self._idle.cancel()
        with self._lock:
            yield
            self._idle = threading.Timer(max(_ANSWERS_S, self._resources.idle_s), self._send_home)
            self._idle.daemon = True
            self._idle.start()

    def _send_home(self) -> None:
        with self._lock:
            asked_meanwhile = threading.current_thread() is not self._idle
            if not asked_meanwhile and (self._waited_for or not self._training):
                self._leave()
                self._drop_group()

    def _take(self, tune_config: TuneConfig) -> None:
        assignment = Assignment.of(tune_config)
        self._number, self._config = assignment.number, assignment.config
        self._folder = self._study.trial(self._number)
        self._begun = False
        self._doing = f"trial {self._number}"
        self._shown_knobs = assignment.knobs_text(self._knobs)

    def _begin(self) -> None:
        self._stored = self._folder.read_reports()
        self._replayed, self._reports = 0, len(self._stored)
        fitting = self._fitting.get(self._config.model, SmallerPasses())
        self._passes = fitting if fitting.applies_to(self._config) else SmallerPasses()
        self._deaths = self._lost_nodes = self._memory_kills = 0

    def _go_on(self) -> None:
        """Answer the workers, or give them the job."""
        self._group = self._group or self._new_group()
        if self._waited_for:
            self._group.go_on(self._task())
            self._waited_for = False
        elif not self._training:
            self._group.send(
                self._job(config=self._config, folder=self._folder, passes=self._passes, zero_shot=self._zero_shot()),
                self._task(),
            )
            self._training = True

    def _new_group(self) -> WorkerGroup:
        return WorkerGroup(self._study, self._data, self._resources, self._label)

    def _task(self) -> str:
        """What Ray's pages call the time until the next report."""
        reached = epoch_of(self._reports + 1, self._reports_per_epoch)
        return f"trial {self._number} · epoch {reached:g}/{self._config.epochs} · {self._shown_knobs}"

    def _zero_shot(self) -> tuple[TrialConfig, TrialFolder, TrialFolder] | None:
        """The untrained base in the study's own prompt, once a model, before the first trial that trains it."""
        plain, without_prior = self._study.zero_shot(self._config.model)
        if plain.has_ranks:
            return None
        return self._base.model_copy(update={"model": self._config.model}), plain, without_prior

    def _wait_while_paused(self) -> None:
        """A pause that lasts gives the slot's resources back; the trial goes on from its last state on a new group."""
        began = time.monotonic()
        while self._study.paused.exists() and self._study.asked_to_stop(self._number) is None:
            if self._group is not None and time.monotonic() - began > self._resources.idle_s:
                self._leave()
                self._drop_group()
            time.sleep(_POLL_S)

    def _may_go_on(self, event: Event) -> bool:
        """Whether the trial, which is not to blame, goes on with new workers: its node alone is gone, or for the first
        time the host had no memory, which somebody else may have taken for a while."""
        if event.machine in _NO_MEMORY:
            return self._memory_kills == 0
        return event.machine == NODE_GONE and self._lost_nodes < _MOST_LOST_NODES

    def _mend(self, event: Event) -> str:
        """Make ready to go on after what went wrong; else the cause to fail with."""
        if event.kind == "out_of_memory":
            smaller = self._passes.after(event.micro_batch, self._config)
            if smaller is None:
                return "it does not fit the memory, not even at micro batch 1"
            self._passes = self._fitting[self._config.model] = smaller
            self._folder.add_note(f"out of memory at micro batch {event.micro_batch}; went on with {smaller}")
            return ""
        if event.machine == NODE_GONE:
            self._lost_nodes += 1
            self._folder.add_note("its node was lost; new workers went on from its last state")
            return ""
        if event.machine in _NO_MEMORY:
            self._memory_kills += 1
            self._folder.add_note(f"{event.machine}; new ones went on from its last state")
            return ""
        if event.kind == "died":
            self._deaths += 1
            if self._deaths > 1:
                return f"its workers died a second time ({event.cause})"
            self._folder.add_note(f"its workers died ({event.cause}); new ones went on from its last state")
            return ""
        return event.cause

    def _is_lost(self, event: Event) -> bool:
        """Whether the group is: workers that train together end together, unless all has gone well."""
        return event.kind == "died" or (event.kind != "ended" and self._resources.workers > 1)

    def _leave(self) -> None:
        """Have the workers drop the job that they are at; a group that does not let go of it is dropped itself."""
        if self._group is None or not self._training:
            return
        if self._waited_for:
            self._group.drop_job()
        else:
            self._group.stop()
        self._training = self._waited_for = False
        if not self._group.leave():
            self._drop_group()

    def _drop_group(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None


def _job_of(study: Study) -> Callable[..., WorkerJob]:
    """What all jobs of a study have in common."""
    return partial(
        WorkerJob,
        metric=study.metric,
        reports_per_epoch=study.reports_per_epoch,
        state_every_s=60 * study.settings.checkpoint_minutes,
    )


def _failed(cause: str, ours: bool = False, machine: str = "") -> TuneResult:
    status = TrialStatus.CANCELLED if machine else TrialStatus.FAILED  # it goes on another time
    return Ending(status, machine or cause, ours, machine).as_result
