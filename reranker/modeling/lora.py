"""A base model → the same with a LoRA adapter on top."""

from __future__ import annotations

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from reranker.config import TrialConfig
from reranker.errors import Fault, InputError
from reranker.modeling.lora_targets import LORA_TARGETS

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
        target_modules=LORA_TARGETS[config.lora_targets],
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
