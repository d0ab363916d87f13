"""A base model → the same with a LoRA adapter on top."""

from __future__ import annotations

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from reranker.config import TrialConfig
from reranker.errors import Fault, InputError
from reranker.modeling.checkpoints.vision_models import reads_images
from reranker.modeling.lora.lora_targets import LINEAR, LORA_TARGETS

_TOWER = r"model\.visual\.(blocks\.\d+\.\w+|merger|deepstack_merger_list\.\d+)\.(qkv|proj|linear_fc1|linear_fc2)"
transformers_logging.disable_progress_bar()  # for loading and converting; downloads from the Hub still show theirs


def attach_lora(base: PreTrainedModel, config: TrialConfig) -> PeftModel:
    """A fresh adapter on the base: B starts at zero, so an untrained adapter does not change the model's answers.

    Raises:
        InputError: the base lacks the modules named by `lora_targets`.
    """
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=_targets(base, config),
        use_rslora=config.rslora,
        use_dora=config.dora,
        task_type="CAUSAL_LM",
    )
    try:
        model = get_peft_model(base, lora)
    except ValueError as error:
        raise InputError(
            [Fault(str(error).split("\n")[0], field="lora_targets", value=config.lora_targets, hint="try all_linear")]
        ) from error
    assert isinstance(model, PeftModel)
    return model


def _targets(base: PreTrainedModel, config: TrialConfig) -> str | list[str]:
    """Of a model that reads images the language model's layers, and with `vision_lora` the vision tower's too."""
    names = LORA_TARGETS[config.lora_targets]
    if not reads_images(base.config):
        return names
    language = rf"model\.language_model\.layers\.\d+\.\w+\.({'|'.join(LINEAR if isinstance(names, str) else names)})"
    return f"{language}|{_TOWER}" if config.vision_lora else language
