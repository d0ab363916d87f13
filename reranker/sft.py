"""A TrialConfig and its data → a LoRA adapter, by trl's SFTTrainer, with a scored report after every epoch."""

from __future__ import annotations

import contextlib
import json
import math
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from reranker.bases import BaseModels
from reranker.candidates import NOBODY, Example
from reranker.config import TrialConfig
from reranker.data import RerankingData
from reranker.draws import random_bits, shuffled, uniform
from reranker.errors import Fault, InputError, OutOfMemory, TrainingError, TrainingStopped
from reranker.evaluation import Evaluation, evaluate
from reranker.heap import give_back
from reranker.learn_skill import SkillLesson, kept_skill, skill_key
from reranker.metrics import is_loss
from reranker.models import base_dtype
from reranker.objective import Objective
from reranker.passes import Limits, Pass, plain_passes, shared_passes
from reranker.prompts import FIND, PromptEncoder
from reranker.pulse import Pulse
from reranker.scoring import EncodedLists, flops_per_list, inspect
from reranker.skill import Skill
from reranker.title_probe import named_titles, own_probes, title_probes
from reranker.trial_folder import TrialFolder
from reranker.workers import gathered, of_all, wait_for_all, worker_rank, workers

warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # one option of theirs by another

_SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
_COUNTED = ("seen", "tokens", "cut_prompts", "history_due", "history_dropped", "largest_pass")
PASS_TOKENS = {"cpu": 4096, "cuda": 16_384, "mps": 8192}  # with padding, where micro_batch is automatic
_AUTO_SHARING = 16  # examples behind a list at most, where list_sharing is automatic
_TIDY_S = 20.0  # between two times that freed memory is given back
_PULSE_S = 2.0  # between two words of what is being done; a step in the meantime costs a look at the clock


@dataclass(frozen=True)
class EpochReport:
    """What one epoch gave, the same on every worker.

    Attributes:
        figures: `epoch`, `train_loss`, those of `reranker.evaluation`, `label_mass` (see `reranker.scoring`),
            `seconds_per_list` (scored by one worker), `seconds` (since the trial began), `train_seconds` (of them those of optimiser steps), `tokens_per_second` (trained, all
            workers), `peak_memory_mb` (largest worker), and `applied/…`: what the optimiser really held.
        evaluation: of the validation lists, in the order of the examples; None where there are none.
        best: whether no earlier epoch was better by the study's metric; without validation lists every one is.
    """

    figures: dict[str, float]
    evaluation: Evaluation | None
    best: bool


def fine_tune(
    config: TrialConfig,
    data: RerankingData,
    *,
    metric: str = "ndcg_at_10",
    folder: TrialFolder | None = None,
    on_epoch: Callable[[EpochReport], bool] = lambda report: True,
    on_pulse: Callable[[Pulse], None] = lambda pulse: None,
    should_stop: Callable[[], bool] = lambda: False,
    micro_batch: int | None = None,
    resume: bool = False,
    bases: BaseModels | None = None,
) -> EpochReport:
    """Train one configuration and score the validation lists after each epoch.

    Runs alone or as one of several distributed workers (torch.distributed already initialised); the effective batch
    and the examples of a step are the same either way. The adapter of the best epoch so far is kept in `folder`.

    Args:
        metric: which figure makes an epoch the best; losses are minimised, the rest maximised.
        on_epoch: called on every worker; False ends the training after this epoch.
        on_pulse: called on every worker, with what it does: at the start of each part, and every other second meanwhile.
        should_stop: asked on every worker after each optimiser step, and must answer all of them alike.
        micro_batch: the most examples per forward pass and worker, in the place of the configuration's.
        resume: keep the training state in `folder` after each epoch, and go on from the one that is there. Epochs that
            the folder has the figures of are not reported again.
        bases: those that are loaded already, where trainings follow each other in one process.

    Returns:
        The report of the best epoch.

    Raises:
        InputError: the configuration cannot work with this data, model or number of workers.
        TrainingError: the loss became non-finite.
        OutOfMemory: a pass did not fit the device; the training can go on with a smaller micro batch.
        TrainingStopped: `should_stop` said so.
        EnvironmentFault: the model cannot be loaded or the folder not be written.
    """
    started = time.perf_counter()
    device = training_device()
    bases = BaseModels() if bases is None else bases
    on_pulse(Pulse(f"loading {config.model}"))
    encoder = PromptEncoder(bases.catalogue(config.model, data.interactions.item_texts), config)
    most_tokens = None if config.micro_batch else PASS_TOKENS[device.type]
    together = 1 if encoder.tokenizes_whole_prompts else examples_of_a_list(config, workers())
    collator = _Collator(config, data, encoder, Limits(most_tokens, micro_batch or config.micro_batch), together)
    steps_per_epoch = math.ceil(len(collator.lists) / (config.effective_batch // together))
    state = folder.state_after() if folder and resume else None
    mixed = base_dtype(config, device) == torch.bfloat16
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # else an earlier training's peak would be told again
    skill = _skill(
        config, data, bases, device, Limits(most_tokens, micro_batch or config.micro_batch), on_pulse, should_stop
    )
    with tempfile.TemporaryDirectory() as scratch, bases.adapted(config, device, skill) as model:
        arguments = SFTConfig(
            output_dir=scratch,
            num_train_epochs=config.epochs,
            learning_rate=config.learning_rate,
            lr_scheduler_type=_SCHEDULES[config.schedule],
            warmup_steps=round(config.warmup_epochs * steps_per_epoch),
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            per_device_train_batch_size=share_of_batch(config, workers()) // together,
            activation_checkpointing=config.gradient_checkpointing,
            bf16=mixed,
            use_cpu=device.type == "cpu",
            seed=config.seed,
            eval_strategy="epoch",
            logging_strategy="epoch",
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            dataloader_pin_memory=device.type == "cuda",
            ddp_find_unused_parameters=False,
            ddp_backend="gloo" if device.type == "cpu" and workers() > 1 else None,
        )
        job = _Job(config, data, encoder, collator, metric, folder, on_epoch, on_pulse, should_stop, resume, skill)
        trainer = _Trainer(job, model, arguments, started)
        try:
            trainer.train(resume_from_checkpoint=str(state[1]) if state else None)
        except RuntimeError as error:
            if should_reduce_batch_size(error):
                raise OutOfMemory(trainer.rows_of_pass) from error
            raise
    assert trainer.best is not None
    return trainer.best


def _skill(
    config: TrialConfig,
    data: RerankingData,
    bases: BaseModels,
    device: torch.device,
    limits: Limits,
    on_pulse: Callable[[Pulse], None],
    should_stop: Callable[[], bool],
) -> Skill | None:
    """What the base is taught first; None where that is not asked for."""
    if config.skill_steps == 0:
        return None

    def tell(text: str) -> None:
        on_pulse(Pulse(text))

    def check() -> None:
        if should_stop():
            raise TrainingStopped("stopped before the first epoch")

    catalogue = bases.catalogue(config.model, data.interactions.item_texts)
    lesson = SkillLesson(
        config, catalogue, device, most_tokens=limits.tokens, most_rows=limits.rows, tell=tell, check=check
    )
    with bases.base(config, device) as base:
        try:
            return kept_skill(skill_key(config, catalogue, base), lambda: lesson.learn(base), check, tell)
        except RuntimeError as error:
            if should_reduce_batch_size(error):
                raise OutOfMemory(lesson.rows_of_pass) from error
            raise


def share_of_batch(config: TrialConfig, workers: int) -> int:
    """Examples of an optimiser step that one worker takes.

    Raises:
        InputError: the effective batch cannot be shared evenly.
    """
    share, rest = divmod(config.effective_batch, workers)
    if rest:
        rule = f"the effective batch must be a multiple of the {workers} workers"
        raise InputError([Fault(rule, field="effective_batch", value=config.effective_batch)])
    return share


def examples_of_a_list(config: TrialConfig, workers: int) -> int:
    """How many examples stand behind one list: what `list_sharing` says, or fewer where a worker's share asks for it.

    Raises:
        InputError: the effective batch cannot be shared evenly.
    """
    share = share_of_batch(config, workers)
    if config.prompt_order == "history_first":
        return 1
    automatic = max(1, min(_AUTO_SHARING, config.candidates, config.effective_batch // 2))
    most = automatic if config.list_sharing == "auto" else config.list_sharing
    return max(divisor for divisor in range(1, min(most, share) + 1) if share % divisor == 0)


def largest_pass(config: TrialConfig, workers: int, prompt_tokens: int, device: str) -> int:
    """Examples of one worker's largest forward pass, where all prompts have this length."""
    fits = config.micro_batch or PASS_TOKENS[device] // prompt_tokens
    return max(1, min(fits, config.effective_batch // workers))


def training_device() -> torch.device:
    """This process's GPU, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class _Collator(TrainerCallback):  # type: ignore[misc]
    """Positions of lists → their examples of this epoch, in passes; draws the lists anew when an epoch begins.

    Args:
        together: examples behind a list at most.
    """

    def __init__(
        self,
        config: TrialConfig,
        data: RerankingData,
        encoder: PromptEncoder,
        limits: Limits,
        together: int = 1,
    ) -> None:
        self.config, self.data, self.encoder = config, data, encoder
        self._limits, self._together = limits, together
        self._finder = PromptEncoder(encoder.catalogue, config, FIND) if config.skill_mix else None
        self._epoch = 0
        self._correction: Any = None  # of shared lists, by item
        self.lists = self._drawn(epoch=0)
        self.seen = 0  # examples of this worker, since the trial began
        self.tokens = 0  # theirs, without padding
        self.cut_prompts = 0  # prompts that lost history or title text to fit
        self.history_due = 0  # items of history that they should show, of `history_length` at most
        self.history_dropped = 0  # those of them that did not fit
        self.largest_pass = 0  # in examples
        if not self.lists:
            raise InputError([Fault("no user has a history to train on", field="training_users")])

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epoch = round(state.epoch or 0)
        self.lists = self._drawn(self._epoch)

    def _drawn(self, epoch: int) -> Sequence[Sequence[Example]]:
        if self._together > 1:
            self._correction = (
                self.data.list_correction(self.config, epoch, self._together) * self.config.list_correction
            )
            return self.data.shared_examples(self.config, epoch, self._together)
        return [[example] for example in self.data.training_examples(self.config, epoch)]

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, list[Pass]]:
        """The examples of a step, in passes."""
        lists = [self.lists[row["position"]] for row in rows]
        examples = [example for some in lists for example in some]
        mixed = [self._find(some, row["position"]) for some, row in zip(lists, rows, strict=True)]
        if self._together > 1:
            shared = [self.encoder.encode_shared(some) for some in lists]
            prompts = [question for prompt in shared for question in prompt.questions]
            for number, find in enumerate(mixed):
                if find and self._finder is not None:
                    more = self._finder.encode_shared(find)
                    if more.listed == shared[number].listed:  # nothing was cut in one of them alone
                        shared[number] = replace(shared[number], questions=shared[number].questions + more.questions)
                        lists[number] = [*lists[number], *find]
            passes = list(shared_passes(self.encoder, lists, shared, self._limits, self._correction))
        else:
            prompts = self.encoder.encode(examples)
            found = [] if self._finder is None else self._finder.encode([e for find in mixed for e in find])
            passes = list(plain_passes(self.encoder, prompts + found, self._limits))
        self.largest_pass = max(self.largest_pass, *(len(batch["targets"]) for batch in passes))
        self.seen += len(examples)
        self.tokens += sum(_real_tokens(batch) for batch in passes)
        self.cut_prompts += sum(1 for p in prompts if p.history_dropped or p.title_tokens)
        self.history_due += sum(min(len(e.history), self.config.history_length) for e in examples)
        self.history_dropped += sum(p.history_dropped for p in prompts)
        return {"passes": passes}

    def _find(self, examples: Sequence[Example], number: int) -> list[Example]:
        """Questions for some of a list's candidates, by their titles: `skill_mix` of all questions, on average."""
        if self._finder is None:
            return []
        mix, candidates = self.config.skill_mix, examples[0].candidates
        key = random_bits(self.config.seed, self._epoch, number)
        due = len(examples) * mix / (1 - mix) + uniform(key)[0]
        places = shuffled(key, len(candidates))[0][: int(due)].tolist()
        return [Example(NOBODY, (candidates[place],), candidates, place) for place in places]


def _real_tokens(batch: Pass) -> int:
    real = batch["layout"]["real"] if "layout" in batch else batch["attention_mask"]
    return int(real.sum())


@dataclass(frozen=True)
class _Job:
    config: TrialConfig
    data: RerankingData
    encoder: PromptEncoder
    collator: _Collator
    metric: str
    folder: TrialFolder | None
    on_epoch: Callable[[EpochReport], bool]
    on_pulse: Callable[[Pulse], None]
    should_stop: Callable[[], bool]
    keeps_state: bool
    skill: Skill | None


class _StopWatch(TrainerCallback):  # type: ignore[misc]
    """Says now and then how far the training is, and ends it at the next optimiser step once it is asked to."""

    def __init__(self, should_stop: Callable[[], bool], on_pulse: Callable[[Pulse], None]) -> None:
        self._should_stop, self._on_pulse = should_stop, on_pulse
        self._said = self._tidied = time.monotonic()
        self._epoch = 0
        self.loss: Tensor | None = None  # of the last step

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._epoch = round(state.epoch or 0) + 1
        self._say(state)

    def score(self, state: Any, lists: int) -> None:
        self._say(state, f"scoring {lists} lists")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        if now - self._said > _PULSE_S:
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
        self._on_pulse(Pulse(doing, self._epoch, done, steps, None if self.loss is None else float(self.loss)))


class _Trainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer with the label objective, and with our scoring in the place of its evaluation."""

    def __init__(self, job: _Job, model: Any, arguments: SFTConfig, started: float) -> None:
        rows = Dataset.from_dict({"position": list(range(len(job.collator.lists)))})
        self._watch = _StopWatch(job.should_stop, job.on_pulse)
        super().__init__(
            model,
            arguments,
            train_dataset=rows,
            eval_dataset=rows.select(range(1)),  # asked for by eval_strategy; `evaluate` scores the validation lists
            data_collator=job.collator,
            processing_class=job.encoder.tokenizer,
            callbacks=[job.collator, self._watch],
        )
        self.remove_callback(PrinterCallback)  # the reports say it all
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
        """The gradient of the mean loss over a step's examples, gathered pass by pass."""
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
        """That of the configuration's objective."""
        return self._objective.loss(self._objective.logits(model, inputs), inputs["targets"])

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the trainer's rule knows nothing of what is left out."""
        return 0

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the validation lists over all workers, keep the adapter if it is the best, report."""
        self._training_seconds += time.perf_counter() - self._epoch_started
        if self._validation:
            self._watch.score(self.state, len(self._validation))
        evaluation, scored = self._evaluate_together() if self._validation else (None, {})
        train_loss = float(self.state.log_history[-1]["loss"])
        epoch = round(self.state.epoch or 0)
        if not all(map(math.isfinite, (train_loss, *scored.values()))):
            rate = self.job.config.learning_rate
            raise TrainingError(f"diverged in epoch {epoch}: the loss is not finite (learning_rate {rate:g})")
        figures = {"epoch": epoch, "train_loss": train_loss, **scored, **self._resources(), **self._applied()}
        figures["seconds"] = time.perf_counter() - self._started
        best = self.best is None or evaluation is None or _better(figures, self.best.figures, self.job.metric)
        report = EpochReport(figures, evaluation, best)
        if best:
            self.best = report
        known = epoch <= len(self._stored)  # trained again because its state was lost, or never written
        if self.job.folder is not None and self.is_world_process_zero() and not known:
            self._store(report)
        if self.job.keeps_state:
            self._keep_state(epoch)
        if not known and not self.job.on_epoch(report):
            self.control.should_training_stop = True
        self._epoch_started = time.perf_counter()
        return {}

    def _keep_state(self, epoch: int) -> None:
        """Everything that the training goes on from: adapter, optimiser, schedule, random numbers, counters."""
        assert self.job.folder is not None
        first = self.is_world_process_zero()
        beside = self.job.folder.path / "state.tmp"
        with self.job.folder.keeping_state(epoch) if first else contextlib.nullcontext():
            wait_for_all()  # until the folder is there
            if first:
                self.accelerator.unwrap_model(self.model).save_pretrained(str(beside))
                self.state.save_to_json(str(beside / "trainer_state.json"))
            self._save_optimizer_and_scheduler(str(beside))
            self._save_rng_state(str(beside))
            (beside / f"counters-{worker_rank()}.json").write_text(json.dumps(self._counters()), encoding="utf-8")
            wait_for_all()  # until everybody has written

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

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Called by the trainer once, when it goes on from a state: where the counters stand is loaded with it."""
        super()._load_rng_state(checkpoint)
        if checkpoint is None or self.job.folder is None:
            return
        path = Path(checkpoint) / f"counters-{worker_rank()}.json"
        counters = json.loads(path.read_text(encoding="utf-8"))
        for name in _COUNTED:
            setattr(self.job.collator, name, counters[name])
        self._training_seconds, self._largest_rate = counters["training"], counters["largest_rate"]
        self._started -= counters["passed"]
        self._epoch_started = time.perf_counter()
        done = self._stored[: round(self.state.epoch or 0)]
        best = done[0]
        for figures in done[1:]:
            best = figures if not self._validation or _better(figures, best, self.job.metric) else best
        self.best = EpochReport(best, None, best=True)

    def _store(self, report: EpochReport) -> None:
        assert self.job.folder is not None
        epoch = int(report.figures["epoch"])
        if report.best:
            model = self.accelerator.unwrap_model(self.model)
            self.job.folder.keep_adapter(model, self.job.config, epoch, self.job.skill)
        if (found := report.evaluation) is not None:
            users = [self.job.data.interactions.user_ids[e.user] for e in self._validation]
            self.job.folder.keep_report(epoch, users, found.ranks, found.picks, best=report.best)
        self.job.folder.append_epoch(report.figures)

    def _evaluate_together(self) -> tuple[Evaluation, dict[str, float]]:
        """The validation lists' evaluation, and its figures with the time and the mass of the labels."""
        model = self.accelerator.unwrap_model(self.model)
        began = time.perf_counter()
        mine = inspect(model, self._lists, self._probes)
        passed = time.perf_counter() - began
        found = evaluate(gathered(mine.scores, len(self._validation)), np.array([e.target for e in self._validation]))
        return found, {
            **found.figures,
            **named_titles(mine),
            "label_mass": sum(of_all(float(mine.mass.sum()))) / len(self._validation),
            "seconds_per_list": max(of_all(passed / max(1, len(mine.scores)))),
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
        """What was really done so far, read off the optimiser, the trainer and the adapter."""
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
        """Of a mean validation list, over all workers."""
        own = len(self._lists.prompts)
        total = flops_per_list(self.accelerator.unwrap_model(self.model), self._lists) * own if own else 0.0
        return float(sum(of_all(total)) / sum(of_all(own)))


def _better(figures: dict[str, float], other: dict[str, float], metric: str) -> bool:
    sign = -1 if is_loss(metric) else 1
    return sign * figures[metric] > sign * other[metric]
