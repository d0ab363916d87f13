"""A Tune trial → a job for a slot: a worker group that outlives the trial, a report an epoch, a cause when it fails.

`make_trainable` is the whole interface between the search and the way in which a trial is run: the search gets a Tune
trainable that takes `{"number", "values"}` and reports the figures of `reranker.sft.EpochReport` once an epoch. Workers
wait at each epoch's end until Tune says that the trial goes on, so what is reported never depends on who is faster.

The last report says how the trial `ended`, in words of `TrialStatus`, with the `cause` where there is one; a trial that
Tune itself stops has no such report.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import train as ray_train
from ray import tune as ray_tune
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError
from ray.train.torch import TorchTrainer

from reranker.config import TrialConfig
from reranker.errors import Fault, InputError
from reranker.mailbox import Event, Mailbox, WorkerJob
from reranker.trial_folder import TrialFolder
from results.study_folder import StudyFolder, TrialStatus
from tune.schedulers import progress
from tune.search_space import Study

_POLL_S = 0.5  # between two looks at whether the trial shall stop
_LEAVE_S = 20.0  # for workers to end their step, or their epoch's scoring, when they are told to


@dataclass(frozen=True)
class TrialResources:
    """What one trial takes of the cluster."""

    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    idle_s: float = 60.0  # of a pause, after which it is given back

    @property
    def cpus(self) -> int:
        return self.workers * self.cpus_per_worker

    @property
    def gpus(self) -> float:
        return self.workers * self.gpus_per_worker


def make_trainable(study_folder: Path, data: Any, study: Study, resources: TrialResources) -> Any:
    """A Tune trainable that trains each trial in a slot, which a next trial takes over where Tune reuses actors.

    Args:
        data: a reference to the study's `RerankingData` in Ray's object store.
    """
    given = {
        "study": StudyFolder(study_folder), "data": [data], "metric": study.metric, "base": study.base(),
        "resources": resources,
    }  # fmt: skip
    # The slot itself only waits for its workers: a sliver of the head node, or it would take the CPU they need.
    sliver = ray_tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
    return ray_tune.with_resources(ray_tune.with_parameters(Slot, **given), sliver)


class Slot(ray_tune.Trainable):  # type: ignore[misc]
    """A worker group and the trial that it trains now."""

    def setup(
        self,
        config: dict[str, Any],
        *,
        study: StudyFolder,
        data: list[Any],
        metric: str,
        base: TrialConfig,
        resources: TrialResources,
    ) -> None:
        os.environ["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "1"  # Train runs appear in the dashboard
        self._study, self._data, self._metric, self._base, self._resources = study, data[0], metric, base, resources
        self._group: _WorkerGroup | None = None
        self._training = False  # the group has this trial's job
        self._waited_for = False  # the group waits for the answer to a report
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._leave()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next epoch's figures: from the folder those that an earlier launch has trained, then new ones."""
        if self._replayed < len(self._stored):
            self._replayed += 1
            return self._result(self._stored[self._replayed - 1], replayed=True)
        self._wait_while_paused()
        if (asked := self._study.asked_to_stop(self._number)) is not None:
            self._leave()
            return _end(*asked)
        self._go_on()
        deadline = None
        while True:
            assert self._group is not None
            event = self._group.event(_POLL_S)
            if event is not None and event.kind == "report":
                self._waited_for = True
                return self._result(event.figures)
            if asked is None and (asked := self._study.asked_to_stop(self._number)) is not None:
                self._group.stop()
                deadline = time.monotonic() + _LEAVE_S
            if asked is not None and (event is not None or time.monotonic() > (deadline or 0)):
                self._training = event is None
                self._leave()
                return _end(*asked)
            if event is not None:
                self._training = False
                if (event.kind in ("failed", "died") and self._resources.workers > 1) or event.kind == "died":
                    self._drop_group()
                cause = self._mend(event)
                if cause:
                    return _end(TrialStatus.FAILED, cause, event.ours)
                self._go_on()

    def cleanup(self) -> None:
        self._leave()
        self._drop_group()

    def _begin(self, assignment: dict[str, Any]) -> None:
        self._number = assignment["number"]
        self._config = TrialConfig.model_validate(assignment["values"])
        self._folder = self._study.trial(self._number)
        self._stored = self._folder.read_epochs()
        self._replayed = 0
        self._micro_batch: int | None = None
        self._deaths = 0
        if len(self._stored) < self._config.epochs and self._group is None:
            self._group = _WorkerGroup(self._study, self._data, self._resources)

    def _go_on(self) -> None:
        """Answer the workers, or give them the job."""
        self._group = self._group or _WorkerGroup(self._study, self._data, self._resources)
        if self._waited_for:
            self._group.answer(True)
            self._waited_for = False
        elif not self._training:
            zero_shot = self._zero_shot()
            self._group.send(WorkerJob(self._config, self._metric, self._folder, self._micro_batch, zero_shot))
            self._training = True

    def _zero_shot(self) -> tuple[TrialConfig, TrialFolder, TrialFolder] | None:
        """The untrained base in the study's own prompt, once a model, before the first trial that trains it."""
        plain, without_prior = self._study.zero_shot(self._config.model)
        if plain.has_ranks:
            return None
        return self._base.model_copy(update={"model": self._config.model}), plain, without_prior

    def _result(self, figures: dict[str, Any], replayed: bool = False) -> dict[str, Any]:
        last = figures["epoch"] >= self._config.epochs
        ended = {"done": True, "ended": TrialStatus.COMPLETED.value} if last else {}
        return {**figures, "progress": progress(figures["epoch"], self._config.epochs), "replayed": replayed, **ended}

    def _wait_while_paused(self) -> None:
        """A pause that lasts gives the slot's resources back; the trial goes on from its last epoch on a new group."""
        began = time.monotonic()
        while self._study.paused.exists() and self._study.asked_to_stop(self._number) is None:
            if self._group is not None and time.monotonic() - began > self._resources.idle_s:
                self._leave()
                self._drop_group()
            time.sleep(_POLL_S)

    def _mend(self, event: Event) -> str:
        """Make ready to go on after what went wrong; else the cause to fail with."""
        if event.kind == "out_of_memory":
            if event.micro_batch <= 1:
                return "it does not fit the memory, not even at micro batch 1"
            self._micro_batch = event.micro_batch // 2
            self._folder.add_note(f"out of memory at micro batch {event.micro_batch}; went on with {self._micro_batch}")
            if self._resources.workers > 1:
                self._drop_group()
            return ""
        if event.kind == "died":
            self._deaths += 1
            if self._deaths > 1:
                return f"its workers died a second time ({event.cause})"
            self._folder.add_note(f"its workers died ({event.cause}); new ones went on from the last epoch")
            return ""
        return event.cause

    def _leave(self) -> None:
        """Have the workers drop the job that they are at; a group that does not let go of it is dropped itself."""
        if self._group is None or not self._training:
            return
        if self._waited_for:
            self._group.answer(False)
        else:
            self._group.stop()
        self._training = self._waited_for = False
        event = self._group.event(_LEAVE_S)
        if event is None or event.kind != "ended":
            self._drop_group()

    def _drop_group(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None


class _WorkerGroup:
    """A Ray Train run whose workers take jobs from a mailbox, in a thread of its own."""

    def __init__(self, study: StudyFolder, data: Any, resources: TrialResources) -> None:
        self._mailbox: Any = Mailbox.remote()  # type: ignore[attr-defined]
        self._pending: Any = None  # the next event
        self._failure: Exception | None = None
        share: dict[str, float] = {"CPU": resources.cpus_per_worker}
        if resources.gpus_per_worker:
            share["GPU"] = resources.gpus_per_worker
        self._trainer = TorchTrainer(
            _serve,
            train_loop_config={
                "mailbox": self._mailbox,
                "data": [data],  # in a list, or Ray would put its value in the place of the reference
                "threads": max(1, resources.cpus_per_worker),
                "device_share": min(1.0, resources.gpus_per_worker) or 1.0,
            },
            scaling_config=ray_train.ScalingConfig(
                num_workers=resources.workers, use_gpu=resources.gpus_per_worker > 0, resources_per_worker=share
            ),
            run_config=ray_train.RunConfig(
                name=f"slot-{uuid.uuid4().hex[:8]}",
                storage_path=str(study.path / "ray"),
                failure_config=ray_train.FailureConfig(max_failures=0),
            ),
        )
        self._thread = threading.Thread(target=self._run, name="worker-group", daemon=True)
        self._thread.start()

    def send(self, job: WorkerJob) -> None:
        self._mailbox.send.remote(job)

    def answer(self, go_on: bool) -> None:
        self._mailbox.answer.remote(go_on)

    def stop(self) -> None:
        self._mailbox.stop.remote()

    def event(self, timeout_s: float) -> Event | None:
        """What the workers tell next, None if they tell nothing in this time."""
        if self._pending is None:
            self._pending = self._mailbox.event.remote()
        try:
            ready, _ = ray.wait([self._pending], timeout=timeout_s)
            if ready:
                event: Event = ray.get(self._pending)
                self._pending = None
                return event
        except RayActorError as error:
            return Event("died", cause=_first_line(error))
        if not self._thread.is_alive():
            return Event("died", cause=_first_line(self._failure) if self._failure else "their loop ended")
        return None

    def close(self) -> None:
        """Send the workers home, and take their reservation back if they don't go."""
        self._mailbox.send.remote(None)
        self._thread.join(timeout=5)
        if self._thread.is_alive():
            ray.kill(self._mailbox)  # every worker that waits for it fails
            self._thread.join(timeout=_LEAVE_S)

    def _run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # noqa: BLE001  (told as the group's death)
            self._failure = error


def _serve(loop_config: dict[str, Any]) -> None:
    from reranker.worker import serve  # here, since it takes seconds that only the workers need to wait for

    serve(loop_config)


def concurrent_trials(resources: TrialResources) -> int:
    """How many trials the cluster holds at once, at least one."""
    have = ray.cluster_resources()
    by_cpu = have.get("CPU", 0) // max(1, resources.cpus)
    by_gpu = have.get("GPU", 0) // resources.gpus if resources.gpus else by_cpu
    return max(1, int(min(by_cpu, by_gpu)))


def trial_resources(study: Study, gpu_part: float = 1.0) -> TrialResources:
    """What a trial takes; `auto` is a GPU a worker where the cluster has any, or the part of one that holds it.

    Workers that train together take whole ones: their collectives refuse to meet twice on one device.

    Args:
        gpu_part: what `tune.preflight` found that the largest model needs.

    Raises:
        InputError: the cluster does not hold one trial.
    """
    wanted, have = study.resources, ray.cluster_resources()
    gpus = wanted.gpus_per_trial
    part = gpu_part if wanted.workers == 1 else 1.0
    per_worker = part * (have.get("GPU", 0) > 0) if gpus == "auto" else gpus / wanted.workers
    resources = TrialResources(wanted.workers, wanted.cpus_per_worker, per_worker, wanted.idle_seconds)
    for name, needed in (("CPU", resources.cpus), ("GPU", resources.gpus)):
        if needed > have.get(name, 0):
            rule = f"a trial must fit the cluster, which has {have.get(name, 0):g} {name}s; it needs {needed:g}"
            raise InputError([Fault(rule, field="resources", hint="lower workers, cpus_per_worker or gpus_per_trial")])
    return resources


def _end(status: TrialStatus, cause: str = "", ours: bool = False) -> dict[str, Any]:
    return {"done": True, "ended": status.value, "cause": cause, "ours": ours}


def _first_line(error: BaseException) -> str:
    while isinstance(error, WorkerGroupError) and error.worker_failures:
        error = next(iter(error.worker_failures.values()))
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
