"""A TrialConfig and its data → a LoRA adapter, with trl's SFTTrainer and scored reports within and after every epoch."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from trl import SFTConfig

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.agreement import check_agreement
from reranker.data.assemble import RerankingData
from reranker.errors import OutOfMemory, TrainingStopped
from reranker.modeling.checkpoints.model_files import shape_of
from reranker.modeling.compiled_layers import compiled_layers
from reranker.modeling.device import best_device, own_memory
from reranker.modeling.lora.label_skill import Skill
from reranker.modeling.lora.lora_start import start_at_base
from reranker.modeling.memory.out_of_memory import is_out_of_memory
from reranker.modeling.model_cache import BaseModels
from reranker.modeling.model_loading import base_dtype
from reranker.modeling.process_group import workers
from reranker.prompting.forward_passes import Limits
from reranker.prompting.pointwise_prompts import encoder_of
from reranker.training.batch_plan import checkpoints, examples_of_a_list, pass_tokens, share_of_batch
from reranker.training.collator import PassCollator
from reranker.training.label_skill_training import SkillLesson, kept_skill, skill_key
from reranker.training.report_plan import ReportPlan
from reranker.training.trainer import SCHEDULES, Job, RerankerTrainer, TrainingReport
from reranker.training.training_status import TrainingStatus


def fine_tune(
    config: TrialConfig,
    data: RerankingData,
    *,
    metric: str = "ndcg_at_10",
    folder: TrialFolder | None = None,
    on_report: Callable[[TrainingReport], bool] = lambda report: True,
    on_status: Callable[[TrainingStatus], None] = lambda training_status: None,
    should_stop: Callable[[], bool] = lambda: False,
    micro_batch: int | None = None,
    checkpointed: bool = False,
    resume: bool = False,
    reports_per_epoch: int = 1,
    state_every_s: float = math.inf,
    bases: BaseModels | None = None,
) -> TrainingReport:
    """Train one configuration; report after each epoch on all validation lists, and within epochs on a part of them.

    Runs alone or as one of several distributed workers (torch.distributed already initialised); the effective batch
    and the examples of a step are the same either way, and with any number of reports. The adapter of the best report so far is kept in `folder`.

    Args:
        metric: the figure that decides which report is best; losses are minimised, the rest maximised.
        on_report: called on every worker; False ends the training here.
        on_status: called on every worker at the start of each stage, and every 2 seconds within it.
        should_stop: called on every worker after each optimiser step; must return the same on all of them.
        micro_batch: most examples per forward pass and worker; replaces that of the configuration.
        checkpointed: only the inputs of layers are kept for the backward pass, whatever the configuration says.
        resume: keep the training state in `folder` at each report, and resume from the one found there. Reports with
            figures in the folder are not made again.
        reports_per_epoch: at equal distances; see `reranker.training.report_plan`.
        state_every_s: keep the training state after so many seconds without one too.
        bases: already loaded models, if several trainings run in one process.

    Returns:
        The best report.

    Raises:
        InputError: the configuration cannot work with this data, model or number of workers.
        TrainingError: the loss became non-finite.
        OutOfMemory: a pass did not fit the device; the training can resume with a smaller micro batch.
        TrainingStopped: `should_stop` returned True.
        EnvironmentFault: the model cannot be loaded, or the folder cannot be written.
    """
    started = time.perf_counter()
    check_agreement(config, data.config)
    device = best_device()
    bases = BaseModels() if bases is None else bases
    on_status(TrainingStatus(f"loading {config.model}"))
    encoder = encoder_of(bases.catalogue(config, data), config)
    mixed = base_dtype(config, device) == torch.bfloat16
    shape, capacity = shape_of(config.model), own_memory(device)
    is_divided = bases.divides(config, device)
    if is_divided and shape is not None:
        shape = replace(shape, shards=workers())
    held = config.model_copy(update={"precision": "bf16" if mixed else "fp32"})
    checkpointed = checkpointed or checkpoints(held, shape, device.type, capacity)
    held = held.model_copy(update={"gradient_checkpointing": checkpointed})
    is_compiled = config.compile_layers is True and not checkpointed and not is_divided
    most_tokens = None if config.micro_batch else pass_tokens(held, shape, device.type, capacity)
    together = examples_of_a_list(config, workers()) if encoder.shares_lists else 1
    collator = PassCollator(config, data, encoder, Limits(most_tokens, micro_batch or config.micro_batch), together)
    plan = ReportPlan(math.ceil(len(collator.lists) / (config.effective_batch // together)), reports_per_epoch)
    state = folder.last_state() if folder and resume else None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # else an earlier training's peak would be reported
    skill = _skill(
        config,
        data,
        bases,
        device,
        Limits(most_tokens, micro_batch or config.micro_batch),
        checkpointed,
        on_status,
        should_stop,
    )
    with (
        tempfile.TemporaryDirectory() as scratch,
        bases.adapted(config, device, skill) as model,
        compiled_layers(model.get_base_model()) if is_compiled else contextlib.nullcontext(),
    ):
        frozen = start_at_base(model, config, skill)
        arguments = SFTConfig(
            output_dir=scratch,
            num_train_epochs=config.epochs,
            learning_rate=config.learning_rate,
            lr_scheduler_type=SCHEDULES[config.schedule],
            warmup_steps=round(config.warmup_epochs * plan.steps),
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            per_device_train_batch_size=share_of_batch(config, workers()) // together,
            activation_checkpointing=checkpointed,
            bf16=mixed,
            use_cpu=device.type == "cpu",
            seed=config.seed,
            eval_strategy="no",  # reports are due by the plan
            logging_strategy="no",
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            dataloader_pin_memory=device.type == "cuda",
            ddp_find_unused_parameters=config.vision_lora,  # of a pass without any image the tower has no part
            ddp_backend="gloo" if device.type == "cpu" and workers() > 1 else None,
        )
        job = Job(
            config, data, encoder, collator, metric, folder, on_report, on_status, should_stop, resume, frozen, plan,
            state_every_s,
        )  # fmt: skip
        trainer = RerankerTrainer(job, model, arguments, started)
        try:
            trainer.train_from(state)
            trainer.report_if_owed()
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
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
    checkpointed: bool,
    on_status: Callable[[TrainingStatus], None],
    should_stop: Callable[[], bool],
) -> Skill | None:
    """The skill that the base is taught first; None if the configuration has none."""
    if config.skill_steps == 0 or config.scoring == "pointwise":
        return None

    def tell(text: str) -> None:
        on_status(TrainingStatus(text))

    def check() -> None:
        if should_stop():
            raise TrainingStopped("stopped before the first epoch")

    catalogue = bases.catalogue(config, data)
    lesson = SkillLesson(
        config,
        catalogue,
        device,
        most_tokens=limits.tokens,
        most_rows=limits.rows,
        checkpointed=checkpointed,
        tell=tell,
        check=check,
    )
    with bases.base(config, device) as base:
        try:
            return kept_skill(skill_key(config, catalogue, base), lambda: lesson.learn(base), check, tell)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise OutOfMemory(lesson.rows_of_pass) from error
            raise
