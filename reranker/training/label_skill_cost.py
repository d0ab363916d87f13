"""What a lesson in naming labels takes, known without giving it. Light: no torch."""

from __future__ import annotations

from reranker.config import TrialConfig

RANK = 16  # of the lesson's adapter
LISTS = 2  # per step, over all workers
NORM = 1.0  # that larger gradients are scaled down to


def lesson_config(config: TrialConfig) -> TrialConfig:
    """The same with the lesson's adapter in place of the trial's."""
    lora = {
        "lora_rank": RANK,
        "lora_alpha": 2 * RANK,
        "lora_targets": "all_linear",
        "lora_dropout": 0.0,
        "rslora": False,
        "dora": False,
        "vision_lora": False,
    }
    return config.model_copy(update=lora)


def lesson_question(config: TrialConfig) -> TrialConfig:
    """The same with the lesson's objective and clipping, which all trials that compare labels share, and so its skill."""
    objective = "token_ce" if config.objective == "token_ce" else "label_ce"
    return config.model_copy(update={"objective": objective, "max_grad_norm": NORM})
