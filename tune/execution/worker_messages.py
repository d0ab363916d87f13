"""What goes between a slot and its worker group: jobs and answers one way, events the other. Light: no torch here."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import Literal

import ray

from reranker.config import TrialConfig
from reranker.training.training_status import TrainingStatus
from reranker.trial_folder import TrialFolder


@dataclass(frozen=True)
class WorkerJob:
    """What a worker group is to train.

    Attributes:
        micro_batch: takes the place of the configuration's, if given.
        zero_shot: what the untrained base is scored with first, and where its two baselines are kept; None: it is not.
        reports_per_epoch, state_every_s: see `reranker.training.sft.fine_tune`.
    """

    config: TrialConfig
    metric: str
    folder: TrialFolder
    micro_batch: int | None = None
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
    """Between one slot, which sends jobs and answers, and the first rank of its worker group, which sends events."""

    def __init__(self) -> None:
        self._jobs: asyncio.Queue[WorkerJob | None] = asyncio.Queue()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._answers: asyncio.Queue[bool] = asyncio.Queue()
        self._stop = asyncio.Event()

    async def send(self, job: WorkerJob | None) -> None:
        """Hand over the next job; None sends the workers home."""
        self._stop.clear()
        await self._jobs.put(job)

    async def job(self) -> WorkerJob | None:
        """The next job, once there is one; None sends the workers home."""
        return await self._jobs.get()

    async def tell(self, event: Event) -> None:
        """Hand over an event that waits for no answer."""
        await self._events.put(event)

    async def report(self, event: Event) -> bool:
        """Hand over a report and wait for the answer whether to go on."""
        await self._events.put(event)
        return await self._answers.get()

    async def event(self) -> Event:
        """The next event, once there is one."""
        return await self._events.get()

    async def answer(self, go_on: bool) -> None:
        """Answer the report that waits."""
        await self._answers.put(go_on)

    async def stop(self) -> None:
        """Ask the running job to end at its next optimiser step."""
        self._stop.set()

    async def stopped(self) -> bool:
        """True, once the running job is asked to end."""
        await self._stop.wait()
        return True
