"""`fine_tune` as the loop of a Ray Train worker, which trains job after job out of a mailbox."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist

from reranker.artifacts.trial_folder import TrialFolder
from reranker.command_line.output_streams import masking, outliving
from reranker.data.assemble import RerankingData
from reranker.errors import OutOfMemory, RerankerError, TrainingStopped
from reranker.modeling.memory.memory_estimate import device_memory
from reranker.modeling.memory.out_of_memory import is_out_of_memory
from reranker.modeling.model_cache import BaseModels
from reranker.modeling.process_group import of_first, worker_rank, workers
from reranker.storage.atomic_files import DamagedFile, disk_fault
from reranker.storage.file_permissions import opener
from reranker.training.sft import fine_tune
from reranker.training.trainer import TrainingReport
from reranker.training.training_status import TrainingStatus
from reranker.zero_shot import keep_zero_shot
from tune.cluster.folder_copies import FolderCopies
from tune.execution.worker_messages import Event, WorkerJob, WorkerSetup

_PATIENCE_S = 30.0  # how long one rank waits before it tells the others that it still does; collectives time out


def serve(setup: WorkerSetup) -> None:
    """The loop of a Ray Train worker: take a job, train it, tell of it, until there is none."""
    mailbox = setup.mailbox
    torch.set_num_threads(setup.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    data = ray.get(setup.data)
    share = setup.device_share or 1.0
    if torch.cuda.is_available() and share < 1:  # who takes more fails by itself, and not the other workers
        torch.cuda.set_per_process_memory_fraction(share, torch.cuda.current_device())
    bases = BaseModels(share * device_memory().total / 4)
    while (job := _first_rank_gets(mailbox.job)) is not None:
        event = _train(job, data, bases, mailbox, setup.mark)
        if event.kind == "ended":
            if worker_rank() == 0:
                ray.get(mailbox.tell.remote(event))
        else:
            ray.get(mailbox.tell.remote(event))
            if workers() > 1:  # the other ranks may wait for this one for ever
                raise RuntimeError(event.cause)
        gc.collect()
        if event.kind == "out_of_memory":
            bases.drop_idle()  # and give back what the pass took, or the model could not be loaded again
        if not gc.get_freeze_count():  # what is imported by now stays; looking through it takes 0.4 s each time
            gc.freeze()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _train(job: WorkerJob, data: RerankingData, bases: BaseModels, mailbox: Any, mark: Path | None) -> Event:
    """Train one job, in its folders or in copies that are sent back."""
    try:
        with _folders_here(job, mailbox, mark) as (job_here, send_back):
            return _train_here(job_here, data, bases, mailbox, send_back)
    except (OSError, RerankerError) as error:  # of the copies
        return _failure(error)


def _train_here(
    job: WorkerJob, data: RerankingData, bases: BaseModels, mailbox: Any, send_back: Callable[[], None]
) -> Event:
    """Train one job, its output going to the trial's log file."""
    rank = worker_rank()
    stopped = mailbox.stopped.remote() if rank == 0 else None

    def tell_report(report: TrainingReport) -> bool:
        print(json.dumps(report.figures))
        send_back()
        event = Event("report", {**report.figures, "best": report.best})
        return bool(_first_rank_gets(mailbox.report, event))

    def should_stop() -> bool:
        mine = stopped is not None and bool(ray.wait([stopped], timeout=0)[0]) and ray.get(stopped)
        return _any_rank(bool(mine))

    def tell(training_status: TrainingStatus) -> None:
        if rank == 0:
            mailbox.tell.remote(Event("training_status", training_status=training_status))

    with _log(job.folder.path / (f"train-{rank}.log" if rank else "train.log")):
        try:
            if job.zero_shot is not None:
                config, plain, without_prior = job.zero_shot
                doing = f"scoring {config.model} untrained"

                def tell_share(share: float) -> None:
                    tell(TrainingStatus(f"{doing}, {share:.0%}"))

                tell(TrainingStatus(doing))
                keep_zero_shot(config, data, bases, plain, without_prior, tell_share)
            with_room(
                bases,
                lambda: fine_tune(
                    job.config,
                    data,
                    metric=job.metric,
                    folder=job.folder,
                    on_report=tell_report,
                    on_status=tell,
                    should_stop=should_stop,
                    micro_batch=job.passes.micro_batch,
                    checkpointed=job.passes.checkpointed,
                    resume=True,
                    reports_per_epoch=job.reports_per_epoch,
                    state_every_s=job.state_every_s,
                    bases=bases,
                ),
            )
        except TrainingStopped:
            return Event("ended")
        except Exception as error:  # noqa: BLE001  (whatever it is, it is this job's end and not the group's)
            traceback.print_exc()
            passes = error.micro_batch if isinstance(error, OutOfMemory) else job.passes.micro_batch
            if passes is not None and is_out_of_memory(error):
                return Event("out_of_memory", cause=str(error), micro_batch=passes)
            return _failure(error)
    return Event("ended")


def with_room(bases: BaseModels, train: Callable[[], object]) -> None:
    """Train. Where memory runs out beside bases that wait for later trials, drop them and go on from the last state.

    Workers that train together must fail together, so there a single one does not try again.
    """
    try:
        train()
        return
    except (RuntimeError, MemoryError, RerankerError) as error:
        if workers() > 1 or not bases.loaded or not is_out_of_memory(error):
            raise
        traceback.print_exc()
    bases.drop_idle()
    train()


def _failure(error: Exception) -> Event:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    cause = first_line if isinstance(error, RerankerError) else f"{type(error).__name__}: {first_line}"
    machine = str(error) if isinstance(error, DamagedFile) else disk_fault(error)
    return Event("failed", cause=cause, ours=getattr(error, "exit_code", 1) == 1, machine=machine)


@contextlib.contextmanager
def _folders_here(job: WorkerJob, mailbox: Any, mark: Path | None) -> Iterator[tuple[WorkerJob, Callable[[], None]]]:
    """The job, and what brings its folders up to what this node has written.

    Where the node does not share their storage, the job's folders are copies, and all workers are on this node.
    """
    if mark is None or of_first(mark.exists()):
        yield job, lambda: None
        return
    originals = [job.folder, *(job.zero_shot[1:] if job.zero_shot else ())]
    copies = FolderCopies.of([folder.path for folder in originals], mailbox) if worker_rank() == 0 else None
    places = of_first([copies.place_of(folder.path) for folder in originals] if copies else None)
    folder, *references = [TrialFolder(place) for place in places]
    zero_shot = (job.zero_shot[0], references[0], references[1]) if job.zero_shot else None
    try:
        yield dataclasses.replace(job, folder=folder, zero_shot=zero_shot), copies.send_back if copies else lambda: None
        if copies:
            copies.send_back()
    finally:
        if copies:
            copies.drop()


@contextlib.contextmanager
def _log(path: Path) -> Iterator[None]:
    """What is printed meanwhile goes into this file, as far as it can be written."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(path, "a", encoding="utf-8", buffering=1, opener=opener))
        except OSError:
            file = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        stream = masking(outliving(file))
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            yield
        stream.close()
        stream.flush()


def _first_rank_gets(call: Any, *arguments: Any) -> Any:
    """What an actor's method returns to the first rank, on every rank, however long that takes."""
    if workers() == 1:
        return ray.get(call.remote(*arguments))
    pending = call.remote(*arguments) if worker_rank() == 0 else None
    while True:
        ready = bool(ray.wait([pending], timeout=_PATIENCE_S)[0]) if pending is not None else False
        box = [ready, ray.get(pending) if ready else None]
        dist.broadcast_object_list(box, src=0)
        if box[0]:
            return box[1]


def _any_rank(mine: bool) -> bool:
    if workers() == 1:
        return mine
    flag = torch.tensor(int(mine), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())
