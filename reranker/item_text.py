"""A template such as `{title} | {brand} | {category:8}` and an item's fields → the text that the model reads of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from reranker.errors import nearest

SEPARATOR = " | "
CAPTION = "caption"  # the field of what a model sees in an item's image
_FIELD = re.compile(r"\{([^{}]*)\}")
_LIMITED = re.compile(r"(.*):\s*(\S*)\s*")


@dataclass(frozen=True)
class Slot:
    """Where a field's value goes; of a limit, its first words only."""

    field: str
    words: int | None = None

    def fill(self, values: Mapping[str, str]) -> str:
        """The value on one line; empty if the item lacks it. Where it is cut, no comma stays behind the last word."""
        words = values.get(self.field, "").split()
        shown = " ".join(words[: self.words])
        return shown if self.words is None or len(words) <= self.words else shown.rstrip(",") or shown


@dataclass(frozen=True)
class ItemTemplate:
    """Parts between `|`, each of fixed text and slots."""

    parts: tuple[tuple[str | Slot, ...], ...]

    @classmethod
    def parse(cls, text: str) -> ItemTemplate:
        """Read a template.

        Raises:
            ValueError: with every rule that it breaks, in one sentence.
        """
        problems: list[str] = []
        parts = tuple(_part(part.strip(), problems) for part in text.split("|"))
        if not problems and not any(isinstance(piece, Slot) for part in parts for piece in part):
            problems.append("a template must hold a field in braces, such as {title}")
        if problems:
            raise ValueError("; ".join(dict.fromkeys(problems)))
        return cls(parts)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The names of its fields, each once, in their order."""
        return tuple(dict.fromkeys(slot.field for part in self.parts for slot in part if isinstance(slot, Slot)))

    def fill(self, values: Mapping[str, str]) -> str:
        """The text of one item. A part whose fields are all empty is left out; no field at all gives no text.

        >>> ItemTemplate.parse("{title} | by {brand} | {category:2}").fill({"title": "Dust", "category": "Home & Garden"})
        'Dust | Home &'
        """
        filled = [
            ([piece if isinstance(piece, str) else piece.fill(values) for piece in part], part) for part in self.parts
        ]
        kept = []
        is_empty = True
        for texts, part in filled:
            values_here = [text for text, piece in zip(texts, part, strict=True) if isinstance(piece, Slot)]
            is_empty &= not any(values_here)
            if any(values_here) or not values_here:
                kept.append(" ".join("".join(texts).split()))
        return "" if is_empty else SEPARATOR.join(text for text in kept if text)


@dataclass(frozen=True)
class CaptionedTexts:
    """What items' texts are made of besides captions, one an item."""

    template: str
    fields: tuple[Mapping[str, str], ...]

    def filled(self, captions: Sequence[str]) -> list[str]:
        """The texts with these captions; an empty one is left out."""
        template = ItemTemplate.parse(self.template)
        return [template.fill({**of, CAPTION: one}) for of, one in zip(self.fields, captions, strict=True)]


def check_fields(text: str, fields: tuple[str, ...]) -> str:
    """The template itself, if it is one and names these fields only.

    Raises:
        ValueError: with every rule that it breaks, in one sentence.
    """
    unknown = [name for name in ItemTemplate.parse(text).fields if fields and name not in fields]
    if unknown:
        raise ValueError("; ".join(f"items have no field {name!r}: {nearest(name, fields)}" for name in unknown))
    return text


def _part(text: str, problems: list[str]) -> tuple[str | Slot, ...]:
    pieces: list[str | Slot] = []
    for position, piece in enumerate(_FIELD.split(text)):
        if position % 2:
            pieces.append(_slot(piece, problems))
        elif piece:
            pieces.append(piece)
            if "{" in piece or "}" in piece:
                problems.append("braces must stand around the name of a field, in pairs")
    return tuple(pieces)


def _slot(inside: str, problems: list[str]) -> Slot:
    limited = _LIMITED.fullmatch(inside)
    name, limit = (limited[1].strip(), limited[2]) if limited else (inside.strip(), None)
    if not name:
        problems.append("braces must hold the name of a field")
    if limit is not None and not (limit.isascii() and limit.isdigit() and int(limit) >= 1):
        problems.append(f"a field's limit must be a number of words from 1, such as {{{name or 'title'}:8}}")
        return Slot(name)
    return Slot(name, None if limit is None else int(limit))
