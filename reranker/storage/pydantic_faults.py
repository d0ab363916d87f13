"""What pydantic finds wrong with a value → the rule that the value breaks, as the rest of a sentence; and what it may have meant."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from reranker.errors import close_to

_RULES = {
    "missing": "this must be given",
    "extra_forbidden": "there is no such field here",
    "union_tag_not_found": "this must be given",
    "union_tag_invalid": "there is no such source",
    **dict.fromkeys(
        ("dict_type", "mapping_type", "model_type", "model_attributes_type"), "must be a mapping of names to values"
    ),
    "list_type": "must be a list",
    "string_type": "must be text",
    **dict.fromkeys(("path_type", "path_not_file", "path_not_directory"), "must be a path"),
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing", "int_parsing_size"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "finite_number": "must be a finite number",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must hold at least {min_length} of them",
    "too_long": "must hold at most {max_length} of them",
    "literal_error": "must be {expected}",
}


def rule_of(error: Mapping[str, Any]) -> str:
    """The rule that one of pydantic's errors tells of.

    >>> rule_of({"type": "less_than_equal", "msg": "", "ctx": {"le": 100000}})
    'must be at most 100,000'
    """
    context = error.get("ctx", {})
    if error["type"] == "string_too_short" and context["min_length"] == 1:
        return "must not be empty"
    if error["type"] in _RULES:
        return _RULES[error["type"]].format_map({name: _shown(value) for name, value in context.items()})
    rule: str = error["msg"].removeprefix("Value error, ")
    return rule[:1].lower() + rule[1:]


def meant_by(error: Mapping[str, Any]) -> str:
    """A hint, if a value is close to one of those that are allowed; else empty."""
    if error["type"] != "literal_error":
        return ""
    return close_to(str(error["input"]), re.findall(r"'([^']*)'", error["ctx"]["expected"]))


def names_at(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """The fields that may stand at a place within a model: its own, or those of a model that is in one of them."""
    for name in place:
        annotation = model.model_fields[str(name)].annotation if str(name) in model.model_fields else None
        kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        model = next((kind for kind in kinds if issubclass(kind, BaseModel)), model)
    return list(model.model_fields)


def _shown(value: object) -> str:
    if isinstance(value, int | float):
        return f"{int(value) if value == int(value) else value:,}"
    return str(value).replace("'", "")
