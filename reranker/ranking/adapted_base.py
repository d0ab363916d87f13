"""A base model and a kept adapter → the base with the adapter, or why it is not this base's."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reranker.artifacts.adapter_files import ADAPTER_WEIGHTS, read_facts
from reranker.errors import EnvironmentFault, Fault, InputError, first_line
from reranker.prompting.chat import chat_fingerprint


def check_chat(tokenizer: PreTrainedTokenizerBase, folder: Path, model: str) -> None:
    """Hold the base's tokenizer against what an adapter was trained with; of an older adapter that is not known.

    Args:
        folder: the adapter's.
        model: the base's name, for messages.

    Raises:
        InputError: it writes prompts in other tokens.
        DamagedFile: the adapter's facts cannot be read.
    """
    facts = read_facts(folder)
    if facts.get("chat", (ours := chat_fingerprint(tokenizer))) != ours:
        rule = "the base's tokenizer and chat template must write prompts as they did when the adapter was trained"
        hint = (
            f"its revision then: {facts['revision']}"
            if "revision" in facts
            else "name a folder with the base as it was"
        )
        raise InputError([Fault(rule, str(folder), field="model", value=model, hint=hint)])


def adapted(base: PreTrainedModel, folder: Path, model: str) -> PeftModel:
    """
    Args:
        folder: the adapter's.
        model: the base's name, for messages.

    Raises:
        InputError: the adapter does not belong to the base.
        EnvironmentFault: it can't be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # `_foreign` refuses them
            loaded = PeftModel.from_pretrained(base, str(folder))
        reason = _foreign(loaded, folder / ADAPTER_WEIGHTS)
    except (RuntimeError, ValueError, re.error) as error:
        rule = f"the adapter must belong to the base model: {_first_reason(error)}"
        raise InputError([Fault(rule, str(folder), field="model", value=model)]) from error
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError) as error:
        raise EnvironmentFault(f"the adapter in {folder} cannot be read: {first_line(error)}") from error
    if reason:
        rule = f"the adapter must belong to the base model: {reason}"
        raise InputError([Fault(rule, str(folder), field="model", value=model)])
    return loaded


def _foreign(loaded: PeftModel, weights: Path) -> str:
    """Which tensor the file lacks, has for no layer, or has in a kind that no weight is; peft takes all of that, and what
    it does not find stays untrained."""
    with safe_open(str(weights), framework="pt") as file:
        kinds = {name: str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118  (no mapping)
    due = get_peft_model_state_dict(loaded, save_embedding_layers=False).keys()
    if missing := sorted(due - kinds.keys()):
        return f"{weights.name} lacks {_named(missing)}"
    if unknown := sorted(kinds.keys() - due - loaded.state_dict().keys()):
        return f"no layer takes {_named(unknown)} of {weights.name}"
    if whole := sorted(name for name, kind in kinds.items() if "F" not in kind):
        return f"{weights.name} has no decimal numbers in {_named(whole)}"
    return ""


def _named(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _first_reason(error: Exception) -> str:
    """torch begins with a line that says nothing, and then names each tensor."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else first_line(error)
