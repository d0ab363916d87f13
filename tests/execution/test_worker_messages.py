"""What a slot and its workers hand over, and how long Ray's pages show a report's training as a task."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.training.training_status import TrainingStatus
from tune.execution.worker_messages import Event, Mailbox, SmallerPasses, WorkerJob

OF_THIS_PROCESS: Any = Mailbox.__ray_metadata__.modified_class  # type: ignore[attr-defined]
ENDS = ["report", "ended", "failed", "out_of_memory"]


@pytest.fixture
def job(tmp_path) -> WorkerJob:
    return WorkerJob(TrialConfig(model="demo-tiny"), "ndcg_at_10", TrialFolder(tmp_path))


async def mailbox_with(job: WorkerJob) -> tuple[Any, asyncio.Task[None]]:
    """A mailbox whose job has begun, and the task that lasts until its first report."""
    mailbox = OF_THIS_PROCESS("messages of slot 0")
    await mailbox.send(job)
    training = asyncio.create_task(mailbox.training())
    await mailbox.tell(Event("training_status", training_status=TrainingStatus("scoring")))
    await asyncio.sleep(0)
    return mailbox, training


@pytest.mark.parametrize("kind", ENDS)
def test_the_task_of_a_report_lasts_until_it_or_the_job_s_end(job, kind):
    async def run() -> tuple[bool, bool]:
        mailbox, training = await mailbox_with(job)
        lasted = not training.done()
        if kind == "report":
            reporting = asyncio.create_task(mailbox.report(Event(kind)))
            await asyncio.sleep(0)
            await mailbox.answer(False)
            await reporting
        else:
            await mailbox.tell(Event(kind))
        await asyncio.wait_for(training, 5)
        return lasted, training.done()

    assert asyncio.run(run()) == (True, True)


def test_a_job_that_goes_on_has_a_task_for_its_next_report(job):
    async def run() -> tuple[bool, bool, bool]:
        mailbox, first = await mailbox_with(job)
        reporting = asyncio.create_task(mailbox.report(Event("report")))
        await asyncio.wait_for(first, 5)
        await mailbox.answer(True)
        second = asyncio.create_task(mailbox.training())
        went_on = await reporting
        await asyncio.sleep(0)
        lasts = not second.done()
        await mailbox.tell(Event("ended"))
        await asyncio.wait_for(second, 5)
        return first.done(), went_on, lasts

    assert asyncio.run(run()) == (True, True, True)


@pytest.mark.parametrize("asked", [True, False])
def test_who_asks_whether_the_job_shall_end_is_answered_when_it_has(job, asked):
    async def run() -> tuple[bool, bool]:
        mailbox, _training = await mailbox_with(job)
        stopped = asyncio.create_task(mailbox.stopped())
        await asyncio.sleep(0)
        waited = not stopped.done()
        if asked:
            await mailbox.stop()
        await mailbox.tell(Event("ended"))
        return waited, await asyncio.wait_for(stopped, 5)

    assert asyncio.run(run()) == (True, asked)


def test_a_mailbox_is_called_what_its_slot_is():
    assert repr(OF_THIS_PROCESS("messages of slot 3 of demo")) == "messages of slot 3 of demo"


@pytest.mark.parametrize(
    ("passes", "too_large", "expected"),
    [
        (SmallerPasses(), 9, SmallerPasses(4)),
        (SmallerPasses(4), 4, SmallerPasses(2)),
        (SmallerPasses(1), 1, SmallerPasses(1, checkpointed=True)),
        (SmallerPasses(), 1, SmallerPasses(1, checkpointed=True)),
        (SmallerPasses(1, checkpointed=True), 1, None),
    ],
)
def test_passes_are_halved_and_checkpointed_from_one_example_on(passes, too_large, expected):
    assert passes.after(too_large, TrialConfig()) == expected


@pytest.mark.parametrize("said", [True, False])
def test_checkpointing_that_the_configuration_decides_is_left_at_that(said):
    assert SmallerPasses(1).after(1, TrialConfig(gradient_checkpointing=said)) is None


@pytest.mark.parametrize(
    ("passes", "micro_batch", "applies"),
    [
        (SmallerPasses(), None, False),
        (SmallerPasses(4), None, True),
        (SmallerPasses(4), 8, True),
        (SmallerPasses(4), 4, False),
        (SmallerPasses(1, checkpointed=True), 1, True),
    ],
)
def test_what_fitted_an_earlier_trial_is_for_those_with_larger_passes(passes, micro_batch, applies):
    assert passes.applies_to(TrialConfig(micro_batch=micro_batch)) == applies
