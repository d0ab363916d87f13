"""trl's SFTTrainer with our own forward passes, reports within and after every epoch, and saved states."""

from __future__ import annotations

import contextlib
import math
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback
from trl import SFTConfig

from reranker.artifacts.trial_folder import TrialFolder
from reranker.calibration import AS_SCORED
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import Example
from reranker.errors import TrainingError
from reranker.evaluation.evaluate import Evaluation, collaborative_scores, evaluate, items_behind
from reranker.evaluation.scoring import EncodedLists, Probe, at_places, flops_per_list, inspect
from reranker.evaluation.title_probe import named_titles, own_probes, title_probes
from reranker.modeling.checkpoints.quantisation import count
from reranker.modeling.lora.label_skill import Skill
from reranker.modeling.process_group import add_up, gathered, of_all, of_first, wait_for_all, worker_rank, workers
from reranker.modeling.sharded_base import passes_missing
from reranker.prompting.chat import chat_fingerprint
from reranker.prompting.forward_passes import Pass
from reranker.prompting.pointwise_prompts import Encoder
from reranker.report_figures import SCORED_SHARE, best_report, is_better
from reranker.training.collator import Counts, PassCollator
from reranker.training.loss import Objective
from reranker.training.preference_stage import Reference, softmax_dpo
from reranker.training.report_plan import ReportPlan, part_of, part_size
from reranker.training.resumable_trainer import ResumableTrainer
from reranker.training.step_watch import StepWatch
from reranker.training.training_counters import for_workers, read_counters, write_counters
from reranker.training.training_status import TrainingStatus

warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # on a deprecated option of its own

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
_GROUPS = 2  # of parameters that the trainer makes: with weight decay and without
_LINE_S = 20.0  # between two lines about a step
_UNSAVED_S = 60.0  # of training, which a kill while lists are scored may cost


@dataclass(frozen=True)
class TrainingReport:
    """Results at one point of a training, the same on every worker.

    Attributes:
        figures: `report` (counted from 1), `epoch` (how many are trained), `train_loss` (of the epoch so far), `guessing_loss` (the cross-entropy of a model to which all candidates of the same lists are alike; in shared lists it is above ln(candidates), since `list_correction` takes from frequent targets), those of `reranker.evaluation.evaluate`, `scored_share` if only a part of the validation lists was scored,
            `label_mass` (see `reranker.evaluation.scoring`), `seconds_per_list` (scored by one worker), `seconds`
            (since the trial began), `train_seconds` (the part spent on optimiser steps), `tokens_per_second` (trained,
            all workers), `padding` (the share of the trained passes that is), `peak_memory_mb` (largest worker), and
            `applied/…`: settings and counts as they really were.
        evaluation: of the scored lists, in the order of the examples; None if there are none.
        best: whether the report is the best so far by the study's metric; without validation lists every one is.
    """

    figures: dict[str, float]
    evaluation: Evaluation | None
    best: bool


@dataclass(frozen=True)
class Job:
    """What one training needs, see `reranker.training.sft.fine_tune`."""

    config: TrialConfig
    data: RerankingData
    encoder: Encoder
    collator: PassCollator
    metric: str
    folder: TrialFolder | None
    on_report: Callable[[TrainingReport], bool]
    on_status: Callable[[TrainingStatus], None]
    should_stop: Callable[[], bool]
    keeps_state: bool
    skill: Skill | None  # and what else is frozen beside the adapter
    plan: ReportPlan
    state_every_s: float


@dataclass(frozen=True)
class ScoredLists:
    """Validation lists that a report is on, and this worker's share of them.

    Attributes:
        examples: all of them.
        mine: this worker's, encoded.
        probes: this worker's, see `reranker.evaluation.title_probe`.
    """

    examples: list[Example]
    mine: EncodedLists
    probes: list[Probe]

    @staticmethod
    def of(examples: list[Example], encoder: Encoder) -> ScoredLists:
        """Every `workers()`-th list is this worker's."""
        mine = EncodedLists.of(encoder, examples[worker_rank() :: workers()])
        return ScoredLists(examples, mine, own_probes(title_probes(encoder.catalogue, encoder.config, examples)))


class RerankerTrainer(ResumableTrainer):
    """SFTTrainer with our objectives, and our scoring in place of its evaluation."""

    def __init__(self, job: Job, model: Any, arguments: SFTConfig, started: float) -> None:
        rows = Dataset.from_dict({"position": list(range(len(job.collator.lists)))})
        self._watch = StepWatch(job.plan, job.should_stop, job.on_status)
        super().__init__(
            model,
            arguments,
            train_dataset=rows,
            data_collator=job.collator,
            processing_class=job.encoder.tokenizer,
            callbacks=[job.collator, self._watch],
        )
        self.remove_callback(PrinterCallback)  # the reports replace it
        # trl rounds the adapter of a quantised base to bf16, in which AdamW's steps would be lost
        for parameter in filter(lambda parameter: parameter.requires_grad, model.parameters()):
            parameter.data = parameter.data.float()
        self.job = job
        self.best: TrainingReport | None = None
        self.rows_of_pass = arguments.per_device_train_batch_size
        validation = job.data.validation(job.config)
        self._reference: Reference | None = None  # of the second stage, once it has begun
        self._validation = ScoredLists.of(validation, job.encoder)
        is_whole = job.plan.per_epoch == 1 or part_size(len(validation)) == len(validation)
        self._part = self._validation if is_whole else ScoredLists.of(part_of(validation), job.encoder)
        self._objective = Objective(job.encoder, self.args.device)
        self._training_seconds = 0.0
        self._started = started
        self._training_since = self._state_kept = time.perf_counter()
        self._line_written = time.monotonic()
        self._owes_report = False
        self._largest_rate = 0.0
        self._counts = Counts()
        self._losses = torch.zeros((), device=self.args.device)  # sum over the epoch's steps so far
        self._guessing = torch.zeros((), device=self.args.device)  # of a model to which all candidates are alike
        self._stored = job.folder.read_reports() if job.folder and job.keeps_state else []

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW; with `lora_plus_ratio` each B has a rate of its own (LoRA+, Hayou et al. 2024)."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        ratio = self.job.config.lora_plus_ratio
        if ratio == 1 or len(optimizer.param_groups) > _GROUPS:
            return optimizer
        fast = {id(p) for name, p in self.model.named_parameters() if ".lora_B." in name}
        for group in list(optimizer.param_groups):
            own = [p for p in group["params"] if id(p) in fast]
            if own:
                group["params"] = [p for p in group["params"] if id(p) not in fast]
                optimizer.add_param_group({**group, "params": own, "lr": ratio * group["lr"]})
        return optimizer

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Accumulate the gradient of the mean loss over a step's examples, pass by pass; returns this worker's share of
        that loss times the workers."""
        self.report_if_owed()
        self._begin_second_stage()
        model.train()
        self._largest_rate = max(self._largest_rate, self.optimizer.param_groups[0]["lr"])
        passes, bare = self._prepare_inputs(inputs)["passes"], self.accelerator.unwrap_model(model)
        own = sum(len(batch["targets"]) for batch in passes) if inputs["counts"].examples else 0
        whole = torch.tensor(float(own), device=self.args.device)
        add_up([whole])
        total = torch.zeros((), device=self.args.device)
        guessing = torch.zeros_like(total)
        idle = passes_missing(bare, len(passes))
        for number, batch in enumerate([*passes[-1:] * idle, *passes], start=1):
            self.rows_of_pass = len(batch["targets"])
            weighs = own > 0 and number > idle
            share = workers() * self.rows_of_pass / whole if weighs else 0.0  # the gradient is the workers' mean
            last = number == idle + len(passes)
            with (
                self._objective.answering(bare, batch),
                contextlib.nullcontext() if last else self.accelerator.no_sync(model),
            ):
                with self.compute_loss_context_manager():
                    loss = share * self.compute_loss(model, batch)
                self.accelerator.backward(loss)
            total += loss.detach()
            guessing += share * self._objective.of_guessing(batch)
        self._counts += inputs["counts"]
        if self.state.global_step % self.job.plan.steps == 0:  # the first step of an epoch
            self._losses.zero_()
            self._guessing.zero_()
        self._losses += total
        self._guessing += guessing
        self._watch.pace.add(total * whole / (workers() * own) if own else total, self._counts.tokens)
        return total

    def compute_loss(
        self, model: Any, inputs: Pass, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The loss of the configuration's objective, or of the second stage."""
        if self._reference is None:
            taught, relevance = inputs.get("teacher"), inputs.get("relevance")
            return self._objective.loss(self._objective.logits(model, inputs), inputs["targets"], taught, relevance)
        bare = self.accelerator.unwrap_model(model)
        with self._reference.in_place(bare):
            before = self._objective.logits(bare, inputs)[:, -1]
        now = self._objective.logits(model, inputs)[:, -1]
        return softmax_dpo(now, before, inputs["targets"], self.job.config.dpo_beta, inputs.get("bias"))

    def _begin_second_stage(self) -> None:
        """Hold on to what is trained so far, if the next step is the first one of softmax-DPO."""
        first = self.job.config.epochs - self.job.config.dpo_epochs
        if self._reference is None and self.job.plan.epoch_at(self.state.global_step) >= first:
            self._reference = Reference.of(self.accelerator.unwrap_model(self.model))

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the trainer's formula ignores the work that our passes skip."""
        return 0

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score validation lists over all workers, keep the adapter if it is the best, and report."""
        self.control.should_evaluate = False
        self._training_seconds += time.perf_counter() - self._training_since
        self._owes_report = False
        if self._is_state_due(min(_UNSAVED_S, self.job.state_every_s)):
            self._keep_state()
        number = self.job.plan.reports_by(self.state.global_step)
        lists = self._validation if self.job.plan.scores_all(number) else self._part
        evaluation, scored_figures = self._evaluate_together(lists) if lists.examples else (None, {})
        steps = self.job.plan.steps_in_epoch(self.state.global_step)
        train_loss, guessing_loss = (
            float(np.mean(of_all(float(of_steps)))) / steps for of_steps in (self._losses, self._guessing)
        )
        epoch = self.job.plan.epoch_of(number)
        if not all(map(math.isfinite, (train_loss, *scored_figures.values()))):
            rate = self.job.config.learning_rate
            current = self.job.plan.epoch_at(self.state.global_step - 1) + 1
            raise TrainingError(f"diverged in epoch {current}: the loss is not finite (learning_rate {rate:g})")
        figures = {"report": number, "epoch": epoch, "train_loss": train_loss, **scored_figures}
        if math.isfinite(guessing_loss):  # a state of an earlier version does not know it
            figures["guessing_loss"] = guessing_loss
        figures |= {**self._resources(), **self._applied(), "seconds": time.perf_counter() - self._started}
        best = self.best is None or evaluation is None or is_better(figures, self.best.figures, self.job.metric)
        report = TrainingReport(figures, evaluation, best)
        if best:
            self.best = report
        is_repeated = number <= len(self._stored)  # trained again because its state was lost or never written
        if self.job.folder is not None and self.is_world_process_zero() and not is_repeated:
            self._store(report, lists.examples)
        if self.job.keeps_state:
            self._keep_state()
        if not is_repeated and not self.job.on_report(report):
            self.control.should_training_stop = True
        self._train_from_here()
        return {}

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """After each step: a report if one is due, a line about the step and a training state if the last is long ago."""
        super()._maybe_log_save_evaluate(*args, **kwargs)
        self._tell_of_step()
        if self._is_state_due(self.job.state_every_s):
            self._training_seconds += time.perf_counter() - self._training_since
            self._keep_state()
            self._train_from_here()

    def _is_state_due(self, after_s: float) -> bool:
        """Whether the last training state was kept longer ago than this; the same on every worker."""
        return self.job.keeps_state and bool(of_first(time.perf_counter() - self._state_kept > after_s))

    def report_if_owed(self) -> None:
        """Make the report that is due at the state from which the training resumed, if a kill came before it."""
        if self._owes_report:
            self.evaluate()

    def _tell_of_step(self) -> None:
        """Write a line about the last step, if the last line is long ago."""
        now = time.monotonic()
        if self.job.folder is None or not self.is_world_process_zero() or now - self._line_written < _LINE_S:
            return
        self._line_written = now
        pace = self._watch.pace
        line = {
            "examples": self._counts.examples * workers(),
            "loss": pace.loss,
            "learning_rate": self.lr_scheduler.get_last_lr()[0],
            "tokens_per_second": (pace.tokens_per_second or 0.0) * workers(),
            "padding": 1 - self._counts.tokens / max(1, self._counts.places),  # of this worker, which may have had none
            "memory_mb": _peak_memory_mb(),
        }
        self.job.folder.append_step(line)

    def _train_from_here(self) -> None:
        """Time passes in training again."""
        self._training_since = time.perf_counter()
        self._watch.pace.begin(self._counts.tokens)

    def _keep_state(self) -> None:
        """Save what the training resumes from: adapter, optimiser, schedule, random states, counters."""
        assert self.job.folder is not None
        is_first = self.is_world_process_zero()
        state_folder = self.job.folder.path / "state.tmp"
        with self.job.folder.keeping_state(self.state.global_step) if is_first else contextlib.nullcontext():
            wait_for_all()  # until the folder exists
            self.write_state(state_folder)
            if is_first and self._reference is not None:
                self._reference.keep(state_folder)
            write_counters(state_folder, worker_rank(), self._counters())
            wait_for_all()  # until every worker has written
        self._state_kept = time.perf_counter()

    def _counters(self) -> dict[str, float]:
        passed = time.perf_counter() - self._started
        return {
            **vars(self._counts),
            "training": self._training_seconds,
            "passed": passed,
            "largest_rate": self._largest_rate,
            "losses": float(self._losses),
            "guessing": float(self._guessing),
        }

    def on_state_loaded(self, folder: Path) -> None:
        """Restore the counters that were saved with the state."""
        kept = read_counters(folder)
        if len(kept) != workers() and self.is_world_process_zero():
            assert self.job.folder is not None
            self.job.folder.add_note(f"workers: {len(kept)} kept its last state, and {workers()} went on from it")
        counters = for_workers(kept, workers())[worker_rank()]
        self._counts = Counts(**{name: int(counters[name]) for name in vars(Counts())})
        self._training_seconds, self._largest_rate = counters["training"], counters["largest_rate"]
        self._started -= counters["passed"]
        self._losses.fill_(counters["losses"])
        self._guessing.fill_(counters["guessing"])
        self._reference = Reference.read(folder, self.accelerator.unwrap_model(self.model))
        self._state_kept = time.perf_counter()
        self._train_from_here()
        due = self.job.plan.reports_by(self.state.global_step)
        self._owes_report = due > len(self._stored)
        done = self._stored[:due]
        best = best_report(done, self.job.metric) if self._validation.examples else done[-1] if done else None
        self.best = TrainingReport(best, None, best=True) if best is not None else None

    def _store(self, report: TrainingReport, lists: list[Example]) -> None:
        assert self.job.folder is not None
        number, epoch = int(report.figures["report"]), report.figures["epoch"]
        if report.best:
            model = self.accelerator.unwrap_model(self.model)
            title_scores = self.job.data.title_scores(self.job.config)
            adjustment = AS_SCORED if report.evaluation is None else report.evaluation.adjustment
            chat = chat_fingerprint(self.job.encoder.tokenizer)
            self.job.folder.keep_adapter(model, self.job.config, epoch, chat, self.job.skill, title_scores, adjustment)
        if (evaluation := report.evaluation) is not None:
            users = [self.job.data.interactions.user_ids[e.user] for e in lists]
            self.job.folder.keep_report(number, users, evaluation.ranks, evaluation.picks, best=report.best)
        self.job.folder.append_report(report.figures)

    def _evaluate_together(self, lists: ScoredLists) -> tuple[Evaluation, dict[str, float]]:
        """The evaluation of the lists, and its figures plus their share, the scoring time and the label mass."""
        model = self.accelerator.unwrap_model(self.model)
        began = time.perf_counter()
        on_progress = self._watch.score(self.state, len(lists.examples))
        with torch.compiler.set_stance("force_eager"):  # to compile layers for it would take longer than it does
            scored = inspect(model, lists.mine, lists.probes, on_progress)
        passed = time.perf_counter() - began
        scores, label_prior = gathered(scored.scores, len(lists.examples)), tuple[float, ...]()
        if self.job.config.label_prior == "divide":
            scored_lists = len(lists.examples) * lists.mine.turns
            label_prior = tuple((np.sum(of_all(scored.label_sums), axis=0) / scored_lists).tolist())
            scores = scores - at_places(label_prior, lists.mine.turns)
        evaluation = evaluate(
            scores,
            np.array([e.target for e in lists.examples]),
            collaborative_scores(lists.examples),
            self.job.config.model_weight,
            behind=items_behind(lists.examples),
        )
        evaluation = replace(evaluation, adjustment=replace(evaluation.adjustment, label_prior=label_prior))
        share = len(lists.examples) / len(self._validation.examples)
        return evaluation, {
            **evaluation.figures,
            **({SCORED_SHARE: share} if share < 1 else {}),
            **named_titles(scored),
            "label_mass": sum(of_all(float(scored.mass.sum()))) / len(lists.examples),
            "seconds_per_list": max(of_all(passed / max(1, len(scored.scores)))),
        }

    def _resources(self) -> dict[str, float]:
        tokens, peak = sum(of_all(self._counts.tokens)), max(of_all(_peak_memory_mb()))
        return {
            "train_seconds": self._training_seconds,
            "tokens_per_second": tokens / self._training_seconds,
            "padding": 1 - tokens / sum(of_all(self._counts.places)),
            "peak_memory_mb": peak,
        }

    def _applied(self) -> dict[str, float]:
        """Settings and counts so far, read from the optimiser, the trainer and the adapter."""
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        cost = {"applied/flops_per_list": self._flops()} if self._validation.examples else {}
        skill = {} if self.job.skill is None else self.job.skill.facts
        return {
            **cost,
            **{f"applied/skill_{name}": skill[name] for name in ("steps", "seconds", "found") if name in skill},
            "applied/learning_rate": self._largest_rate,
            "applied/optimizer_steps": self.state.global_step,
            "applied/examples": sum(of_all(self._counts.examples)),
            "applied/micro_batch": max(of_all(self._counts.largest_pass)),
            "applied/workers": workers(),
            "applied/trainable_parameters": trainable,
            "applied/parameters": sum(count(p) for p in self.model.parameters()),
            "applied/cut_prompts": sum(of_all(self._counts.cut_prompts)),
            "applied/history_due": sum(of_all(self._counts.history_due)),
            "applied/history_dropped": sum(of_all(self._counts.history_dropped)),
        }

    def _flops(self) -> float:
        """FLOPs of a mean validation list, over all workers."""
        mine = self._validation.mine
        own_lists = len(mine.prompts)
        total = flops_per_list(self.accelerator.unwrap_model(self.model), mine) * own_lists if own_lists else 0.0
        return float(sum(of_all(total)) / sum(of_all(own_lists)))


def _peak_memory_mb() -> float:
    """This worker's, of the device, or without one of the process."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated() / 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
