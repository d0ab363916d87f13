"""A base model → the same with a LoRA adapter on top."""

from __future__ import annotations

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from reranker.config import TrialConfig
from reranker.errors import Fault, InputError

transformers_logging.disable_progress_bar()  # of loading and converting; downloads from the Hub still show theirs


LORA_TARGETS: dict[str, str | list[str]] = {
    "all_linear": "all-linear",
    "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "qv": ["q_proj", "v_proj"],
}


def attach_lora(base: PreTrainedModel, config: TrialConfig) -> PeftModel:
    """A fresh adapter on the base: B starts at zero, so the model's answers are the base's until it is trained.

    Raises:
        InputError: the base has no modules of the names that `lora_targets` stands for.
    """
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=LORA_TARGETS[config.lora_targets],
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
