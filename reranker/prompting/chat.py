"""A question, and an answer if there is one → the text of a conversation, as the base's own chat template writes it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase  # takes half a second

_TODAY = (  # of templates that tell it: the day that Llama's tells where there is no clock
    ("%-d", "26"), ("%d", "26"), ("%b", "Jul"), ("%B", "July"), ("%m", "07"), ("%Y", "2024"), ("%y", "24"), ("%a", "Fri"),
    ("%A", "Friday"), ("%H", "00"), ("%M", "00"), ("%S", "00"),
)  # fmt: skip
_CLOCK = "{% macro strftime_now(format) %}{{ format%s }}{% endmacro %}".replace(
    "%s", "".join(f" | replace('{code}', '{value}')" for code, value in _TODAY)
)
_PROBE = "Seen: Amélie, No. 7 (2001)\nA\n\nAnswer with the label of the candidate that comes next."


def chat(tokenizer: PreTrainedTokenizerBase, content: str, answer: str | None = None) -> str:
    """The conversation as text, in the tokenizer's chat template with thinking switched off.

    Without an answer it ends where the model must start one. A tokenizer without a template gets plain text. Templates
    that tell what day it is (Llama 3.2, SmolLM3) tell the same one on every day: an adapter is asked as it was trained.
    """
    if tokenizer.chat_template is None:
        return f"{tokenizer.bos_token or ''}{content}\n\nAnswer:\n{answer or ''}"
    messages = [{"role": "user", "content": content}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    template = tokenizer.get_chat_template()
    text = tokenizer.apply_chat_template(
        messages,
        chat_template=_CLOCK + template if "strftime_now" in template else template,
        tokenize=False,
        add_generation_prompt=answer is None,
        enable_thinking=False,
    )
    assert isinstance(text, str)
    return text


def chat_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a conversation's tokens, which are others by another tokenizer, and by another template if it shows."""
    ids = tokenizer(chat(tokenizer, _PROBE, "A"), add_special_tokens=False)["input_ids"]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()
