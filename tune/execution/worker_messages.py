"""What goes between a slot and its worker group: jobs and answers one way, events the other. Light: no torch here."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import ray

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.training.training_status import TrainingStatus
from tune.cluster.folder_copies import FolderChanges, content_of


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker has as long as it lives, whatever its jobs.

    Attributes:
        mailbox: a handle of the `Mailbox` that jobs come from.
        data: a reference to the study's `RerankingData` in Ray's object store.
        threads: of each worker; more than the CPUs assigned to it slow all of them down many times.
        device_share: the part of a GPU that is this worker's; 0 without one.
        mark: see `TrialResources`.
    """

    mailbox: Any
    data: Any
    threads: int
    device_share: float
    mark: Path | None


@dataclass(frozen=True)
class SmallerPasses:
    """What makes a training fit the memory that its configuration does not.

    Attributes:
        micro_batch: takes the place of the configuration's; None: it stays.
        checkpointed: only the inputs of layers are kept for the backward pass, whatever the configuration says.
    """

    micro_batch: int | None = None
    checkpointed: bool = False

    def after(self, too_large: int, config: TrialConfig) -> SmallerPasses | None:
        """What to go on with after a pass of so many examples did not fit: half of them, and from one on checkpointing,
        unless the configuration rules it out. None if nothing is left."""
        if too_large > 1:
            return replace(self, micro_batch=too_large // 2)
        if config.gradient_checkpointing == "auto" and not self.checkpointed:
            return SmallerPasses(1, checkpointed=True)
        return None

    def applies_to(self, config: TrialConfig) -> bool:
        """Whether a later trial would have larger passes than fitted an earlier one of the same model."""
        most = config.micro_batch
        return self.micro_batch is not None and (self.checkpointed or most is None or most > self.micro_batch)

    def __str__(self) -> str:
        return "gradient checkpointing" if self.checkpointed else str(self.micro_batch)


@dataclass(frozen=True)
class WorkerJob:
    """What a worker group is to train.

    Attributes:
        passes: as they have to be for want of memory.
        zero_shot: what the untrained base is scored with first, and where its two baselines are kept; None: it is not.
        reports_per_epoch, state_every_s: see `reranker.training.sft.fine_tune`.
    """

    config: TrialConfig
    metric: str
    folder: TrialFolder
    passes: SmallerPasses = SmallerPasses()
    zero_shot: tuple[TrialConfig, TrialFolder, TrialFolder] | None = None
    reports_per_epoch: int = 1
    state_every_s: float = math.inf


@dataclass(frozen=True)
class Event:
    """What became of a job so far.

    Attributes:
        kind: after a `report` the workers wait for an answer; `training_status` says what they are doing, now and then,
            and waits for nothing; the others end the job.
        figures: of the report, as in `TrainingReport`, and `best`.
        cause: of a failure, in one sentence; `ours` where it is not the user's to mend.
        machine: what of the machine has failed, where the failure says nothing of the job; see
            `tune.execution.failure_cause`.
        micro_batch: that did not fit the memory.
    """

    kind: Literal["report", "training_status", "ended", "failed", "out_of_memory", "died"]
    figures: dict[str, float] = field(default_factory=dict)
    training_status: TrainingStatus = field(default_factory=TrainingStatus)
    cause: str = ""
    ours: bool = True
    machine: str = ""
    micro_batch: int = 0


@ray.remote(num_cpus=0)
class Mailbox:
    """Between one slot, which sends jobs and answers, and the first rank of its worker group, which sends events.

    Args:
        label: what Ray's pages call it.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._jobs: asyncio.Queue[WorkerJob | None] = asyncio.Queue()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._answers: asyncio.Queue[bool] = asyncio.Queue()
        self._stop = asyncio.Event()
        self._ended = asyncio.Event()
        self._not_training = asyncio.Event()

    def __repr__(self) -> str:
        return self._label

    async def send(self, job: WorkerJob | None) -> None:
        """Hand over the next job; None sends the workers home."""
        self._stop.clear()
        if job is not None:
            self._ended.clear()
            self._not_training.clear()
        await self._jobs.put(job)

    async def job(self) -> WorkerJob | None:
        """The next job, once there is one; None sends the workers home."""
        return await self._jobs.get()

    async def tell(self, event: Event) -> None:
        """Hand over an event that waits for no answer."""
        if event.kind != "training_status":
            self._ended.set()
            self._not_training.set()
        await self._events.put(event)

    async def report(self, event: Event) -> bool:
        """Hand over a report and wait for the answer whether to go on."""
        self._not_training.set()
        await self._events.put(event)
        return await self._answers.get()

    async def event(self) -> Event:
        """The next event, once there is one."""
        return await self._events.get()

    async def answer(self, go_on: bool) -> None:
        """Answer the report that waits."""
        if go_on:
            self._not_training.clear()
        await self._answers.put(go_on)

    async def read_folder(self, folder: Path) -> FolderChanges:
        """All that a folder on this machine holds, for a node that does not see it."""
        return await asyncio.to_thread(content_of, folder)

    async def change_folder(self, folder: Path, changes: FolderChanges) -> None:
        """Do to a folder on this machine what was done to its copy on such a node."""
        await asyncio.to_thread(changes.apply, folder)

    async def training(self) -> None:
        """Lasts until the next report, or the job's end: a task for Ray's pages, which show it under the name that its
        caller gives it."""
        await self._not_training.wait()

    async def stop(self) -> None:
        """Ask the running job to end at its next optimiser step."""
        self._stop.set()

    async def stopped(self) -> bool:
        """True once the running job is asked to end; False once it has ended by itself."""
        waiting = [asyncio.create_task(event.wait()) for event in (self._stop, self._ended)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return self._stop.is_set()
