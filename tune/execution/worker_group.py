"""Jobs → events: a Ray Train run whose workers train one job after the other, for slots of a search and for a refit."""

from __future__ import annotations

import math
import os
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import train as ray_train
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from results.study.study_folder import StudyFolder
from tune.cluster.node_check import gone
from tune.execution.failure_cause import NO_ANSWER, NODE_GONE, first_line, machine_fault, memory_kills, root
from tune.execution.ray_train_private import InProcessTrainer
from tune.execution.worker_messages import Event, Mailbox, WorkerJob, WorkerSetup

_CAUSE_S = 5.0  # for Ray Train to tell what its workers died of, where the mailbox was gone first
_NODE_S = 3.0  # for Ray to notice that the node of a worker that died is gone too
_SILENT_NODE_S = 45.0  # the same, of a node that just does not answer: Ray asks five times
LEAVE_S = 20.0  # for workers to end their step, or their epoch's scoring, when they are told to


@dataclass(frozen=True)
class TrialResources:
    """What one trial takes of the cluster.

    Attributes:
        idle_s: of a pause, or of a slot without a trial, after which it is given back.
        hang_s: without a word of its workers, after which they are replaced.
        one_node: whether all of its workers must be on the same node.
        mark: a file that a node sees if it shares the storage of the study's folder; None: all do.
    """

    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    idle_s: float = 60.0
    hang_s: float = math.inf
    one_node: bool = False
    mark: Path | None = None

    @property
    def cpus(self) -> int:
        """Of all workers together."""
        return self.workers * self.cpus_per_worker

    @property
    def gpus(self) -> float:
        """Of all workers together."""
        return self.workers * self.gpus_per_worker


class WorkerGroup:
    """A Ray Train run whose workers take jobs from a mailbox, in a thread of its own.

    Args:
        data: a reference to the study's `RerankingData` in Ray's object store.
        label: what Ray's pages call the group, such as "slot 1 of demo".
    """

    def __init__(self, study: StudyFolder, data: Any, resources: TrialResources, label: str) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox: Any = Mailbox.options(scheduling_strategy=here).remote(f"messages of {label}")  # type: ignore[attr-defined]
        self._gone = gone()
        self._hang_s = resources.hang_s
        self._pending: Any = None  # the next event
        self._silent_s = -math.inf  # since the last one, as long as somebody listened; counted from the first on
        self._failure: Exception | None = None
        self._memory_kills = memory_kills()
        share: dict[str, float] = {"CPU": resources.cpus_per_worker}
        if resources.gpus_per_worker:
            share["GPU"] = resources.gpus_per_worker
        self._trainer = InProcessTrainer(
            _serve,
            train_loop_config={
                "setup": WorkerSetup(
                    mailbox=self._mailbox,
                    data=data,
                    threads=max(1, resources.cpus_per_worker),
                    device_share=min(1.0, resources.gpus_per_worker),
                    mark=resources.mark,
                )
            },
            scaling_config=ray_train.ScalingConfig(
                num_workers=resources.workers,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker=share,
                placement_strategy="STRICT_PACK" if resources.one_node else "PACK",
            ),
            run_config=ray_train.RunConfig(
                name=f"{label.replace(' ', '-')}-{uuid.uuid4().hex[:8]}",
                storage_path=str(study.path / "ray"),
                failure_config=ray_train.FailureConfig(max_failures=0),
            ),
            worker_label=f"worker of {label}",
        )
        self._thread = threading.Thread(target=self._run, name="worker-group", daemon=True)
        self._thread.start()

    def send(self, job: WorkerJob, task: str) -> None:
        """Give the workers their next job; Ray's pages show what they do until the first report as this task."""
        self._mailbox.send.remote(job)
        self._mailbox.training.options(name=task).remote()

    def go_on(self, task: str) -> None:
        """Answer a report: the job goes on, until the next report as this task."""
        self._mailbox.answer.remote(True)
        self._mailbox.training.options(name=task).remote()

    def drop_job(self) -> None:
        """Answer a report: the job is over."""
        self._mailbox.answer.remote(False)

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
                self._pending, self._silent_s = None, 0.0
                return event
        except RayError as error:
            self._thread.join(timeout=_CAUSE_S)  # its failure may know more
            return self._death(self._failure or error)
        if not self._thread.is_alive():
            return self._death(self._failure)
        self._silent_s += timeout_s
        if self._silent_s > self._hang_s:
            return Event("died", cause=f"nothing was heard of them for {self._hang_s / 60:,.3g} minutes")
        return None

    def leave(self) -> bool:
        """Have the workers drop the job that they are at; whether they did, and can take another."""
        deadline = time.monotonic() + LEAVE_S
        while (left := deadline - time.monotonic()) > 0:
            event = self.event(left)
            if event is None or event.kind not in ("training_status", "report"):
                return event is not None and event.kind == "ended"
            if event.kind == "report":  # it was under way when they were told
                self.drop_job()
        return False

    def close(self) -> None:
        """Send the workers home, and take their reservation back if they don't go."""
        self._mailbox.send.remote(None)
        self._thread.join(timeout=5)
        at_home = not self._thread.is_alive()
        ray.kill(self._mailbox)  # every worker that waits for it fails
        if not at_home:
            self._trainer.kill_workers()
            self._thread.join(timeout=LEAVE_S)

    def _death(self, error: Exception | None) -> Event:
        killed = memory_kills() > self._memory_kills
        cause = first_line(root(error)) if error else "their loop ended"
        machine = machine_fault(error, killed_for_memory=killed)
        if machine in ("", NO_ANSWER) and self._lost_a_node(_SILENT_NODE_S if machine else _NODE_S):
            machine = NODE_GONE
        return Event("died", cause=cause, machine=machine)

    def _lost_a_node(self, patience_s: float) -> bool:
        """Whether the cluster has lost a node since the group was made, also one that joined only then."""
        deadline = time.monotonic() + patience_s
        while len(ray.nodes()) > 1:
            if gone() - self._gone:
                return True
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return False

    def _run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # noqa: BLE001  (told as the group's death)
            self._failure = error


def _serve(loop_config: dict[str, WorkerSetup]) -> None:
    setup = loop_config["setup"]
    if not setup.device_share:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # else all workers without a GPU would compute on the first one
    from tune.execution.worker_loop import serve  # here, since it takes seconds that only the workers need to wait for

    serve(setup)
