"""`fine_tune` as the loop of a Ray Train worker, which trains job after job out of a mailbox."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist

from reranker.command_line.output_streams import outliving
from reranker.data.assemble import RerankingData
from reranker.errors import OutOfMemory, RerankerError, TrainingStopped
from reranker.modeling.memory_estimate import device_memory
from reranker.modeling.model_cache import BaseModels
from reranker.process_group import worker_rank, workers
from reranker.storage.atomic_files import DamagedFile, disk_fault
from reranker.training.sft import fine_tune
from reranker.training.trainer import TrainingReport
from reranker.training.training_status import TrainingStatus
from reranker.zero_shot import keep_zero_shot
from tune.execution.worker_messages import Event, WorkerJob

_PATIENCE_S = 30.0  # how long one rank waits before it tells the others that it still does; collectives time out


def serve(loop_config: dict[str, Any]) -> None:
    """The loop of a Ray Train worker: take a job, train it, tell of it, until there is none.

    Args:
        loop_config: `mailbox`; `data`, a list of one reference to the study's `RerankingData` in Ray's object store;
            `threads` of each worker (more than the CPUs assigned to it slow all of them down many times);
            `device_share`, the part of a GPU that is this worker's; 0 without one.
    """
    mailbox = loop_config["mailbox"]
    torch.set_num_threads(loop_config["threads"])
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    data = ray.get(loop_config["data"][0])
    share = loop_config["device_share"] or 1.0
    if torch.cuda.is_available() and share < 1:  # who takes more fails by itself, and not the other workers
        torch.cuda.set_per_process_memory_fraction(share, torch.cuda.current_device())
    bases = BaseModels(share * device_memory().total / 4)
    while (job := _first_rank_gets(mailbox.job)) is not None:
        event = _train(job, data, bases, mailbox)
        if event.kind == "ended":
            if worker_rank() == 0:
                ray.get(mailbox.tell.remote(event))
        else:
            ray.get(mailbox.tell.remote(event))
            if workers() > 1:  # the other ranks may wait for this one for ever
                raise RuntimeError(event.cause)
        gc.collect()
        if not gc.get_freeze_count():  # what is imported by now stays; looking through it takes 0.4 s each time
            gc.freeze()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _train(job: WorkerJob, data: RerankingData, bases: BaseModels, mailbox: Any) -> Event:
    """Train one job, its output going to the trial's log file."""
    rank = worker_rank()
    stopped = mailbox.stopped.remote() if rank == 0 else None

    def tell_report(report: TrainingReport) -> bool:
        print(json.dumps(report.figures))
        event = Event("report", {**report.figures, "best": report.best})
        return bool(_first_rank_gets(mailbox.report, event))

    def should_stop() -> bool:
        mine = stopped is not None and bool(ray.wait([stopped], timeout=0)[0])
        return _any_rank(mine)

    def tell(training_status: TrainingStatus) -> None:
        if rank == 0:
            mailbox.tell.remote(Event("training_status", training_status=training_status))

    with _log(job.folder.path / (f"train-{rank}.log" if rank else "train.log")):
        try:
            if job.zero_shot is not None:
                config, *folders = job.zero_shot
                tell(TrainingStatus(f"scoring {config.model} untrained"))
                keep_zero_shot(config, data, bases, *folders)
            fine_tune(
                job.config,
                data,
                metric=job.metric,
                folder=job.folder,
                on_report=tell_report,
                on_status=tell,
                should_stop=should_stop,
                micro_batch=job.micro_batch,
                resume=True,
                reports_per_epoch=job.reports_per_epoch,
                state_every_s=job.state_every_s,
                bases=bases,
            )
        except TrainingStopped:
            return Event("ended")
        except OutOfMemory as error:
            traceback.print_exc()
            return Event("out_of_memory", cause=str(error), micro_batch=error.micro_batch)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is this job's end and not the group's)
            traceback.print_exc()
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            says_it_all = isinstance(error, RerankerError)
            cause = first_line if says_it_all else f"{type(error).__name__}: {first_line}"
            machine = str(error) if isinstance(error, DamagedFile) else disk_fault(error)
            return Event("failed", cause=cause, ours=getattr(error, "exit_code", 1) == 1, machine=machine)
        finally:
            if stopped is not None:
                ray.cancel(stopped)
    return Event("ended")


@contextlib.contextmanager
def _log(path: Path) -> Iterator[None]:
    """What is printed meanwhile goes into this file, as far as it can be written."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("a", encoding="utf-8", buffering=1))
        except OSError:
            file = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        stream = outliving(file)
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            yield
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
