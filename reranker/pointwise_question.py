"""A history and one item → the question whether the item comes next, to be answered with yes or no.

The words and the form are those that Qwen3-Reranker was trained on (its model card,
huggingface.co/Qwen/Qwen3-Reranker-0.6B), with the history in the place of the query. Other models are asked in the same words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase  # takes half a second

ANSWERS = ("yes", "no")
_JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
_INSTRUCTION = (
    "Given the items that a user has chosen so far, oldest first, judge whether the user chooses the item next"
)


def question_form(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What stands before and behind the question: as a chat where the model knows its marks; first of all what the
    tokenizer begins every text with (Gemma, Llama)."""
    known = tokenizer.get_vocab()
    begins = bool(tokenizer.bos_token) and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    first = str(tokenizer.bos_token) if begins else ""
    if "<|im_start|>" not in known:
        return f"{first}{_JUDGE}\n\n", "\nAnswer: "
    thought = "<think>\n\n</think>\n\n" if "<think>" in known else ""
    before = f"{first}<|im_start|>system\n{_JUDGE}<|im_end|>\n<|im_start|>user\n"
    return before, f"<|im_end|>\n<|im_start|>assistant\n{thought}"


def about(history: Iterable[str]) -> str:
    """The question up to the item, which follows after a space.

    Args:
        history: texts of the items, oldest first.
    """
    return f"<Instruct>: {_INSTRUCTION}\n<Query>: {'; '.join(history)}\n<Document>:"


def answer_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids of yes and of no.

    Raises:
        ValueError: one of them is not one token that the tokenizer knows; the message is the rule.
    """
    tokens = []
    for word in ANSWERS:
        ids: list[int] = tokenizer.encode(word, add_special_tokens=False)
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise ValueError(f"the model must have a token of its own for {word}")
        tokens.append(ids[0])
    return tokens
