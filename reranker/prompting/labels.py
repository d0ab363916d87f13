"""A label style → the texts that stand for a list's candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, islice
from string import ascii_letters, ascii_lowercase, ascii_uppercase

from reranker.config import LETTERS, LabelStyle
from reranker.errors import Fault, InputError

_PAIRS = [
    *(first + second for first in ascii_uppercase for second in ascii_uppercase),
    *(first + second for first in ascii_uppercase for second in ascii_lowercase),
    *(first + second for first in ascii_lowercase for second in ascii_letters),
]


def _all(texts: Sequence[str]) -> list[bool]:
    return [True] * len(texts)


def label_texts(style: LabelStyle, count: int, are_tokens: Callable[[Sequence[str]], list[bool]] = _all) -> list[str]:
    """The first `count` labels of a style.

    Args:
        are_tokens: for each of some texts, whether it is one token of the model's, in the list and as the answer; only
            `id_tokens` asks.

    Raises:
        InputError: the style has fewer labels.

    >>> label_texts("letters", 3), label_texts("numbers", 3)
    (['A', 'B', 'C'], ['1', '2', '3'])
    """
    if style == "numbers":
        return [str(number) for number in range(1, count + 1)]
    if style == "mixed":
        return list(islice(chain(LETTERS, map(str, range(1, count + 1))), count))
    if style == "letters":
        texts = list(LETTERS)
    else:
        texts = [text for text, is_token in zip(_PAIRS, are_tokens(_PAIRS), strict=True) if is_token]
    if len(texts) < count:
        rule = f"a list of {count} candidates needs as many labels; {style} has {len(texts)} with this model"
        hint = "label_style: numbers and mixed have any number"
        raise InputError([Fault(rule, field="label_style", value=style, hint=hint)])
    return texts[:count]
