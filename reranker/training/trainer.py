"""trl's SFTTrainer with our own forward passes, and a report and a saved state after every epoch."""

from __future__ import annotations

import contextlib
import json
import math
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.errors import TrainingError, TrainingStopped
from reranker.evaluation.evaluate import Evaluation, collaborative_scores, evaluate
from reranker.evaluation.scoring import EncodedLists, flops_per_list, inspect
from reranker.evaluation.title_probe import named_titles, own_probes, title_probes
from reranker.metrics import is_loss
from reranker.modeling.freed_memory import give_back
from reranker.modeling.label_skill import Skill
from reranker.process_group import gathered, of_all, wait_for_all, worker_rank, workers
from reranker.prompting.forward_passes import Pass
from reranker.prompting.prompts import PromptEncoder
from reranker.training.collator import PassCollator
from reranker.training.loss import Objective
from reranker.training.resumable_trainer import ResumableTrainer
from reranker.training.training_status import TrainingStatus
from reranker.trial_folder import TrialFolder

warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # on a deprecated option of its own

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
_COUNTED = ("seen", "tokens", "cut_prompts", "history_due", "history_dropped", "largest_pass")
_TIDY_S = 20.0  # between two returns of freed memory to the system
_STATUS_S = 2.0  # between two status reports; a step in between only reads the clock


@dataclass(frozen=True)
class EpochReport:
    """Results of one epoch, the same on every worker.

    Attributes:
        figures: `epoch`, `train_loss`, those of `reranker.evaluation.evaluate`, `label_mass` (see
            `reranker.evaluation.scoring`), `seconds_per_list` (scored by one worker), `seconds` (since the trial
            began), `train_seconds` (the part spent on optimiser steps), `tokens_per_second` (trained, all workers),
            `peak_memory_mb` (largest worker), and `applied/…`: settings and counts as they really were.
        evaluation: of the validation lists, in the order of the examples; None if there are none.
        best: whether the epoch is the best so far by the study's metric; without validation lists every epoch is.
    """

    figures: dict[str, float]
    evaluation: Evaluation | None
    best: bool


@dataclass(frozen=True)
class Job:
    """What one training needs, see `reranker.training.sft.fine_tune`."""

    config: TrialConfig
    data: RerankingData
    encoder: PromptEncoder
    collator: PassCollator
    metric: str
    folder: TrialFolder | None
    on_epoch: Callable[[EpochReport], bool]
    on_status: Callable[[TrainingStatus], None]
    should_stop: Callable[[], bool]
    keeps_state: bool
    skill: Skill | None


class StopWatch(TrainerCallback):  # type: ignore[misc]
    """Reports progress at intervals, and ends the training at the next optimiser step when asked to."""

    def __init__(self, should_stop: Callable[[], bool], on_status: Callable[[TrainingStatus], None]) -> None:
        self._should_stop, self._on_status = should_stop, on_status
        self._said = self._tidied = time.monotonic()
        self._epoch = 0
        self.loss: Tensor | None = None  # of the last step

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report the new epoch."""
        self._epoch = round(state.epoch or 0) + 1
        self._say(state)

    def score(self, state: Any, lists: int) -> None:
        """Report that so many lists are being scored."""
        self._say(state, f"scoring {lists} lists")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report and free memory when due.

        Raises:
            TrainingStopped: `should_stop` said so.
        """
        now = time.monotonic()
        if now - self._said > _STATUS_S:
            self._say(state)
        if now - self._tidied > _TIDY_S:
            self._tidied = now
            give_back()
        if self._should_stop():
            raise TrainingStopped(f"stopped at optimiser step {state.global_step}")

    def _say(self, state: Any, doing: str = "") -> None:
        self._said = time.monotonic()
        steps = state.max_steps // state.num_train_epochs
        done = state.global_step - (self._epoch - 1) * steps
        self._on_status(
            TrainingStatus(doing, self._epoch, done, steps, None if self.loss is None else float(self.loss))
        )


class RerankerTrainer(ResumableTrainer):
    """SFTTrainer with the label objective, and our scoring in place of its evaluation."""

    def __init__(self, job: Job, model: Any, arguments: SFTConfig, started: float) -> None:
        rows = Dataset.from_dict({"position": list(range(len(job.collator.lists)))})
        self._watch = StopWatch(job.should_stop, job.on_status)
        super().__init__(
            model,
            arguments,
            train_dataset=rows,
            eval_dataset=rows.select(range(1)),  # required by eval_strategy; `evaluate` scores the validation lists
            data_collator=job.collator,
            processing_class=job.encoder.tokenizer,
            callbacks=[job.collator, self._watch],
        )
        self.remove_callback(PrinterCallback)  # the reports replace it
        self.job = job
        self.best: EpochReport | None = None
        self.rows_of_pass = arguments.per_device_train_batch_size
        self._validation = job.data.validation(job.config)
        self._lists = EncodedLists.of(job.encoder, self._validation[worker_rank() :: workers()])
        self._probes = own_probes(title_probes(job.encoder.catalogue, job.config, self._validation))
        self._objective = Objective(job.encoder, self.args.device)
        self._training_seconds = 0.0
        self._started = started
        self._epoch_started = time.perf_counter()
        self._largest_rate = 0.0
        self._stored = job.folder.read_epochs() if job.folder and job.keeps_state else []

    def training_step(self, model: Any, inputs: dict[str, list[Pass]], num_items_in_batch: Any = None) -> Tensor:
        """Accumulate the gradient of the mean loss over a step's examples, pass by pass; returns that loss."""
        model.train()
        self._largest_rate = max(self._largest_rate, *(group["lr"] for group in self.optimizer.param_groups))
        passes, bare = self._prepare_inputs(inputs)["passes"], self.accelerator.unwrap_model(model)
        count = sum(len(batch["targets"]) for batch in passes)
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(passes, start=1):
            self.rows_of_pass = len(batch["targets"])
            share = self.rows_of_pass / count
            last = number == len(passes)
            with (
                self._objective.answering(bare, batch),
                contextlib.nullcontext() if last else self.accelerator.no_sync(model),
            ):
                with self.compute_loss_context_manager():
                    loss = share * self.compute_loss(model, batch)
                self.accelerator.backward(loss)
            total += loss.detach()
        self._watch.loss = total
        return total

    def compute_loss(
        self, model: Any, inputs: Pass, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The loss of the configuration's objective."""
        return self._objective.loss(self._objective.logits(model, inputs), inputs["targets"])

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the trainer's formula ignores the work that our passes skip."""
        return 0

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the validation lists over all workers, keep the adapter if it is the best, and report."""
        self._training_seconds += time.perf_counter() - self._epoch_started
        if self._validation:
            self._watch.score(self.state, len(self._validation))
        evaluation, scored_figures = self._evaluate_together() if self._validation else (None, {})
        train_loss = float(self.state.log_history[-1]["loss"])
        epoch = round(self.state.epoch or 0)
        if not all(map(math.isfinite, (train_loss, *scored_figures.values()))):
            rate = self.job.config.learning_rate
            raise TrainingError(f"diverged in epoch {epoch}: the loss is not finite (learning_rate {rate:g})")
        figures = {"epoch": epoch, "train_loss": train_loss, **scored_figures, **self._resources(), **self._applied()}
        figures["seconds"] = time.perf_counter() - self._started
        best = self.best is None or evaluation is None or is_better(figures, self.best.figures, self.job.metric)
        report = EpochReport(figures, evaluation, best)
        if best:
            self.best = report
        is_repeated = epoch <= len(self._stored)  # trained again because its state was lost or never written
        if self.job.folder is not None and self.is_world_process_zero() and not is_repeated:
            self._store(report)
        if self.job.keeps_state:
            self._keep_state(epoch)
        if not is_repeated and not self.job.on_epoch(report):
            self.control.should_training_stop = True
        self._epoch_started = time.perf_counter()
        return {}

    def _keep_state(self, epoch: int) -> None:
        """Save what the training resumes from: adapter, optimiser, schedule, random states, counters."""
        assert self.job.folder is not None
        is_first = self.is_world_process_zero()
        state_folder = self.job.folder.path / "state.tmp"
        with self.job.folder.keeping_state(epoch) if is_first else contextlib.nullcontext():
            wait_for_all()  # until the folder exists
            self.write_state(state_folder)
            (state_folder / f"counters-{worker_rank()}.json").write_text(json.dumps(self._counters()), encoding="utf-8")
            wait_for_all()  # until every worker has written

    def _counters(self) -> dict[str, float]:
        collator = self.job.collator
        counted = {name: getattr(collator, name) for name in _COUNTED}
        passed = time.perf_counter() - self._started
        return {
            **counted,
            "training": self._training_seconds,
            "passed": passed,
            "largest_rate": self._largest_rate,
        }

    def on_state_loaded(self, folder: Path) -> None:
        """Restore the counters that were saved with the state."""
        path = folder / f"counters-{worker_rank()}.json"
        counters = json.loads(path.read_text(encoding="utf-8"))
        for name in _COUNTED:
            setattr(self.job.collator, name, counters[name])
        self._training_seconds, self._largest_rate = counters["training"], counters["largest_rate"]
        self._started -= counters["passed"]
        self._epoch_started = time.perf_counter()
        done = self._stored[: round(self.state.epoch or 0)]
        best = done[0]
        for figures in done[1:]:
            best = figures if not self._validation or is_better(figures, best, self.job.metric) else best
        self.best = EpochReport(best, None, best=True)

    def _store(self, report: EpochReport) -> None:
        assert self.job.folder is not None
        epoch = int(report.figures["epoch"])
        if report.best:
            model = self.accelerator.unwrap_model(self.model)
            title_scores = self.job.data.title_scores(self.job.config)
            self.job.folder.keep_adapter(model, self.job.config, epoch, self.job.skill, title_scores)
        if (evaluation := report.evaluation) is not None:
            users = [self.job.data.interactions.user_ids[e.user] for e in self._validation]
            self.job.folder.keep_report(epoch, users, evaluation.ranks, evaluation.picks, best=report.best)
        self.job.folder.append_epoch(report.figures)

    def _evaluate_together(self) -> tuple[Evaluation, dict[str, float]]:
        """The evaluation of the validation lists, and its figures plus the scoring time and the label mass."""
        model = self.accelerator.unwrap_model(self.model)
        began = time.perf_counter()
        scored = inspect(model, self._lists, self._probes)
        passed = time.perf_counter() - began
        evaluation = evaluate(
            gathered(scored.scores, len(self._validation)),
            np.array([e.target for e in self._validation]),
            collaborative_scores(self._validation),
            self.job.config.model_weight,
        )
        return evaluation, {
            **evaluation.figures,
            **named_titles(scored),
            "label_mass": sum(of_all(float(scored.mass.sum()))) / len(self._validation),
            "seconds_per_list": max(of_all(passed / max(1, len(scored.scores)))),
        }

    def _resources(self) -> dict[str, float]:
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        tokens, peak = sum(of_all(self.job.collator.tokens)), max(of_all(peak))
        return {
            "train_seconds": self._training_seconds,
            "tokens_per_second": tokens / self._training_seconds,
            "peak_memory_mb": peak,
        }

    def _applied(self) -> dict[str, float]:
        """Settings and counts so far, read from the optimiser, the trainer and the adapter."""
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        cost = {"applied/flops_per_list": self._flops()} if self._validation else {}
        skill = {} if self.job.skill is None else self.job.skill.facts
        return {
            **cost,
            **{f"applied/skill_{name}": skill[name] for name in ("steps", "seconds", "found") if name in skill},
            "applied/learning_rate": self._largest_rate,
            "applied/optimizer_steps": self.state.global_step,
            "applied/examples": sum(of_all(self.job.collator.seen)),
            "applied/micro_batch": max(of_all(self.job.collator.largest_pass)),
            "applied/workers": workers(),
            "applied/trainable_parameters": trainable,
            "applied/parameters": sum(p.numel() for p in self.model.parameters()),
            "applied/cut_prompts": sum(of_all(self.job.collator.cut_prompts)),
            "applied/history_due": sum(of_all(self.job.collator.history_due)),
            "applied/history_dropped": sum(of_all(self.job.collator.history_dropped)),
        }

    def _flops(self) -> float:
        """FLOPs of a mean validation list, over all workers."""
        own_lists = len(self._lists.prompts)
        total = flops_per_list(self.accelerator.unwrap_model(self.model), self._lists) * own_lists if own_lists else 0.0
        return float(sum(of_all(total)) / sum(of_all(own_lists)))


def is_better(figures: dict[str, float], other: dict[str, float], metric: str) -> bool:
    """Whether the figures beat the other ones by this metric; losses are minimised."""
    sign = -1 if is_loss(metric) else 1
    return sign * figures[metric] > sign * other[metric]
