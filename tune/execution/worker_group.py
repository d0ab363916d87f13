"""Jobs → events: a Ray Train run whose workers train one job after the other, for slots of a search and for a refit."""

from __future__ import annotations

import os
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray import train as ray_train
from ray.exceptions import RayError

from results.study.study_folder import StudyFolder
from tune.execution.failure_cause import first_line, machine_fault, memory_kills, root
from tune.execution.worker_messages import Event, Mailbox, WorkerJob

_CAUSE_S = 5.0  # for Ray Train to tell what its workers died of, where the mailbox was gone first
LEAVE_S = 20.0  # for workers to end their step, or their epoch's scoring, when they are told to


@dataclass(frozen=True)
class TrialResources:
    """What one trial takes of the cluster."""

    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    idle_s: float = 60.0  # of a pause, after which it is given back

    @property
    def cpus(self) -> int:
        """Of all workers together."""
        return self.workers * self.cpus_per_worker

    @property
    def gpus(self) -> float:
        """Of all workers together."""
        return self.workers * self.gpus_per_worker


class WorkerGroup:
    """A Ray Train run whose workers take jobs from a mailbox, in a thread of its own."""

    def __init__(self, study: StudyFolder, data: Any, resources: TrialResources) -> None:
        from tune.execution.ray_train_private import InProcessTrainer  # brings torch, which a search does not need

        self._mailbox: Any = Mailbox.remote()  # type: ignore[attr-defined]
        self._pending: Any = None  # the next event
        self._failure: Exception | None = None
        self._memory_kills = memory_kills()
        share: dict[str, float] = {"CPU": resources.cpus_per_worker}
        if resources.gpus_per_worker:
            share["GPU"] = resources.gpus_per_worker
        self._trainer = InProcessTrainer(
            _serve,
            train_loop_config={
                "mailbox": self._mailbox,
                "data": [data],  # in a list, or Ray would put its value in the place of the reference
                "threads": max(1, resources.cpus_per_worker),
                "device_share": min(1.0, resources.gpus_per_worker),
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
        """Give the workers their next job."""
        self._mailbox.send.remote(job)

    def answer(self, go_on: bool) -> None:
        """Answer a report: whether the job goes on."""
        self._mailbox.answer.remote(go_on)

    def stop(self) -> None:
        """Ask the running job to end at its next optimiser step."""
        self._mailbox.stop.remote()

    def event(self, timeout_s: float) -> Event | None:
        """What the workers tell next, None if they tell nothing in this time.

        A death says what of the machine has failed, where that has killed them.
        """
        if self._pending is None:
            self._pending = self._mailbox.event.remote()
        try:
            ready, _ = ray.wait([self._pending], timeout=timeout_s)
            if ready:
                event: Event = ray.get(self._pending)
                self._pending = None
                return event
        except RayError as error:
            self._thread.join(timeout=_CAUSE_S)  # its failure may know more
            return self._death(self._failure or error)
        return None if self._thread.is_alive() else self._death(self._failure)

    def leave(self) -> bool:
        """Have the workers drop the job that they are at; whether they did, and can take another."""
        deadline = time.monotonic() + LEAVE_S
        while (left := deadline - time.monotonic()) > 0:
            event = self.event(left)
            if event is None or event.kind not in ("training_status", "report"):
                return event is not None and event.kind == "ended"
            if event.kind == "report":  # it was under way when they were told
                self.answer(False)
        return False

    def close(self) -> None:
        """Send the workers home, and take their reservation back if they don't go."""
        self._mailbox.send.remote(None)
        self._thread.join(timeout=5)
        if self._thread.is_alive():
            ray.kill(self._mailbox)  # every worker that waits for it fails
            self._thread.join(timeout=LEAVE_S)

    def _death(self, error: Exception | None) -> Event:
        killed = memory_kills() > self._memory_kills
        cause = first_line(root(error)) if error else "their loop ended"
        return Event("died", cause=cause, machine=machine_fault(error, killed_for_memory=killed))

    def _run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # noqa: BLE001  (told as the group's death)
            self._failure = error


def _serve(loop_config: dict[str, Any]) -> None:
    if not loop_config["device_share"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # else all workers without a GPU would compute on the first one
    from tune.execution.worker_loop import serve  # here, since it takes seconds that only the workers need to wait for

    serve(loop_config)
