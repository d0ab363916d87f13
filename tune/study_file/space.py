"""The space of a study file → its dimensions, each checked at both of its ends.

An entry of `space` is a knob and how it varies: `{choice: […]}`, `{int: [low, high]}` with `step` or `log`,
`{uniform: [low, high]}`, `{log_uniform: [low, high]}`, or `{ratio_of: other, choice: [factors]}`, which multiplies
another knob's value. Knobs joined by + vary together: `epochs+learning_rate: {choice: [[3, 1e-3], [10, 1e-4]]}`. With
`when: {other: value or [values]}` an entry is drawn only where each condition holds; elsewhere its knobs keep their
fixed or default value. A condition that no trial meets is no fault: a search narrowed by an override has such.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from typing import Any

from pydantic import ValidationError

from reranker.config import TrialConfig
from reranker.errors import InputError, nearest
from reranker.storage.pydantic_faults import meant_by, names_at, rule_of
from reranker.storage.yaml_lines import Document, Location
from tune.study_file.dimensions import KNOBS, NO_KNOB, Dimension, is_number, mapping_of, names_of, reach
from tune.study_file.distributions import Choice, Distribution, FloatRange, IntRange, RatioOf

FIXED_ONLY = {
    "candidates": "lists of different length can't be compared",
    "seed": "the luckiest seed is no finding; repeat the best trials with other seeds instead",
}
ALPHA_FOLLOWS = "lora_alpha, not given, is twice lora_rank; name lora_rank instead, or give lora_alpha"
_KINDS = ("choice", "int", "uniform", "log_uniform")
_MODIFIERS = {
    "choice": {"ratio_of", "when"},
    "int": {"step", "log", "when"},
    "uniform": {"when"},
    "log_uniform": {"when"},
}


def read_dimension(document: Document, name: str) -> Dimension | None:
    """One entry of the space; None, and its faults in the document, where it breaks a rule."""
    at: Location = ("space", name)
    entry = document.values["space"][name]
    before = len(document.faults)
    knobs = names_of(name)
    conditional = isinstance(entry, dict) and "when" in entry
    elsewhere = [knob for other in document.values["space"] if other != name for knob in names_of(other)]
    for i, knob in enumerate(knobs):
        if knob not in KNOBS:
            document.faults.append(document.fault(at, NO_KNOB, knob, nearest(knob, KNOBS)))
        elif knob in FIXED_ONLY:
            document.faults.append(document.fault(at, f"this knob can't be searched: {FIXED_ONLY[knob]}"))
        elif knob in elsewhere or knob in knobs[:i]:
            document.faults.append(document.fault(at, "a knob must stand in one entry of the space", knob))
        elif knob in mapping_of(document.values, "fixed") and not (conditional and len(knobs) == 1):
            rule = "a knob must not be both fixed and searched, but where its entry has a condition"
            hint = f"{name} vary together: fix all of them or none" if len(knobs) > 1 else ""
            document.faults.append(document.fault(at, rule, knob, hint))
    if not isinstance(entry, dict):
        rule = "how a knob varies must be a mapping, such as {choice: […]} or {log_uniform: [low, high]}"
        document.faults.append(document.fault(at, rule, entry))
        return None
    kinds = [key for key in entry if key in _KINDS]
    if len(kinds) != 1:
        hint = next((nearest(key, _KINDS) for key in entry if key not in {*_KINDS, "when", "ratio_of", "step"}), "")
        rule = f"exactly one of {', '.join(_KINDS)} must be given"
        document.faults.append(document.fault(at, rule, list(entry), hint if not kinds else ""))
        return None
    for key in [key for key in entry if key not in {kinds[0], *_MODIFIERS[kinds[0]]}]:
        hint = nearest(key, {kinds[0], *_MODIFIERS[kinds[0]]})
        document.faults.append(document.fault((*at, key), f"this can't be combined with {kinds[0]}", hint=hint))
    distribution = _distribution(document, at, kinds[0], entry, knobs)
    when = _when(document, at, entry.get("when"), knobs)
    if distribution is None or len(document.faults) > before:
        return None
    return Dimension(name, knobs, distribution, when)


def _distribution(
    document: Document, at: Location, kind: str, entry: dict[str, Any], knobs: tuple[str, ...]
) -> Distribution | None:
    values = entry[kind]

    def refuse(rule: str, value: object = values) -> Distribution | None:
        document.faults.append(document.fault((*at, kind), rule, value))
        return None

    if not isinstance(values, list) or not values:
        return refuse("must be a list that is not empty")
    if kind == "choice":
        if any(values.index(option) < i for i, option in enumerate(values)):
            return refuse("a choice must not be listed twice")
        if "ratio_of" in entry:
            return _ratio(document, at, entry["ratio_of"], values, knobs)
        if len(knobs) > 1 and not all(isinstance(option, list) and len(option) == len(knobs) for option in values):
            return refuse(f"each choice must be a list with a value for each of {', '.join(knobs)}")
        return Choice(tuple(values))
    if len(knobs) > 1:
        return refuse("knobs that vary together must be given as choices")
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(values) != 2 or len(numbers) != 2:
        return refuse("a range must be [low, high], two numbers")
    low, high = numbers
    if low >= high:
        return refuse("the low end must be below the high end")
    log, step = entry.get("log", False), entry.get("step", 1)
    if (kind == "log_uniform" or log) and low <= 0:
        return refuse("a logarithmic range must be above 0")
    if kind != "int":
        return FloatRange(float(low), float(high), kind == "log_uniform")
    if not (isinstance(low, int) and isinstance(high, int)):
        return refuse("the ends must be whole numbers")
    if (
        not isinstance(log, bool)
        or not isinstance(step, int)
        or isinstance(step, bool)
        or step < 1
        or (log and step > 1)
    ):
        return refuse("step must be a whole number from 1, log true or false, and not both", {"step": step, "log": log})
    if (high - low) % step:
        return refuse(f"the high end must be a number of steps of {step} above the low one")
    return IntRange(low, high, step, log)


def _ratio(
    document: Document, at: Location, other: Any, factors: list[Any], knobs: tuple[str, ...]
) -> Distribution | None:
    if len(knobs) > 1 or not isinstance(other, str) or other not in KNOBS or other == knobs[0]:
        hint = nearest(str(other), KNOBS.keys() - set(knobs))
        rule = "must name another knob, for one knob alone"
        document.faults.append(document.fault((*at, "ratio_of"), rule, other, hint))
        return None
    if _follows(document, other):
        document.faults.append(document.fault((*at, "ratio_of"), ALPHA_FOLLOWS, other))
        return None
    if not all(isinstance(factor, int | float) and not isinstance(factor, bool) and factor > 0 for factor in factors):
        document.faults.append(document.fault((*at, "choice"), "a ratio must be a number above 0", factors))
        return None
    whole = knobs[0] in KNOBS and KNOBS[knobs[0]].annotation in (int, int | None)
    return RatioOf(other, tuple(factors), whole)


def _when(document: Document, at: Location, condition: Any, knobs: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
    if condition is None:
        return {}
    if not isinstance(condition, dict) or not condition:
        document.faults.append(document.fault((*at, "when"), "a condition must be a mapping {knob: value}", condition))
        return {}
    for knob, allowed in condition.items():
        if allowed == []:
            document.faults.append(document.fault((*at, "when", knob), "a condition must allow at least one value"))
        if knob not in KNOBS or knob in knobs:
            hint = nearest(knob, KNOBS.keys() - set(knobs))
            document.faults.append(document.fault((*at, "when", knob), "a condition must name another knob", hint=hint))
        elif _follows(document, knob):
            document.faults.append(document.fault((*at, "when", knob), ALPHA_FOLLOWS))
    return {knob: tuple(value) if isinstance(value, list) else (value,) for knob, value in condition.items()}


def _follows(document: Document, knob: str) -> bool:
    """Alpha that is not given has no value of its own to depend on."""
    space = mapping_of(document.values, "space")
    given = {name for entry in space if "when" not in mapping_of(space, entry) for name in names_of(entry)}
    return knob == "lora_alpha" and knob not in given | mapping_of(document.values, "fixed").keys()


def in_order(document: Document, dimensions: list[Dimension]) -> tuple[Dimension, ...]:
    """Each after those it needs; otherwise as in the file. Those that need each other are a fault, and left out."""
    ordered: list[Dimension] = []
    waiting = list(dimensions)
    while waiting:
        open_knobs = {knob for dimension in waiting for knob in dimension.knobs}
        ready = next((d for d in waiting if not d.needs() & open_knobs), None)
        if ready is None:
            names = " and ".join(d.name for d in waiting)
            document.faults.append(document.fault(("space", waiting[0].name), f"{names} depend on each other"))
            break
        waiting.remove(ready)
        ordered.append(ready)
    return tuple(ordered)


def check_when(
    document: Document, dimension: Dimension, fixed: dict[str, Any], check_model: Callable[[str], None]
) -> None:
    """Each value of a condition must be one that its knob can have."""
    for knob, allowed in dimension.when.items():
        for value in allowed:
            at: Location = ("space", dimension.name, "when", knob)
            check_knobs(document, {**fixed, knob: value}, at, {knob}, check_model)


def check_ends(
    document: Document,
    dimension: Dimension,
    fixed: dict[str, Any],
    dimensions: tuple[Dimension, ...],
    check_model: Callable[[str], None],
) -> None:
    """Both ends of a range, each choice, must build a configuration, whatever value the knob is a ratio of."""
    at: Location = ("space", dimension.name)
    entry = document.values["space"][dimension.name]
    kind = next(key for key in _KINDS if key in entry)
    rule = "each choice must be valid: " if kind == "choice" else f"both ends of {entry[kind]} must be valid: "
    base = {**fixed, **{knob: allowed[0] for knob, allowed in dimension.when.items()}}
    knobs = set(dimension.knobs)
    if not isinstance(dimension.distribution, RatioOf):
        others = [other for other in dimensions if other is not dimension]
        of_fixed = [message for message in broken_rules(fixed) if not any(_mends(dimension, fixed, message))]
        for i, end in enumerate(dimension.distribution.ends({})):
            values = {**base, **dimension.assign(end)}
            mended = [message for message in broken_rules(values) if _is_mended(message, values, others)]
            check_knobs(document, values, (*at, kind, i), knobs, check_model, rule, told=[*of_fixed, *mended])
        return
    other = dimension.distribution.other
    for value in reach(other, fixed, dimensions):
        if not is_number(value):
            rule = f"must name a knob whose values are all numbers; {other} can be {json.dumps(value)}"
            document.faults.append(document.fault((*at, "ratio_of"), rule))
            return
        before = len(document.faults)
        for i, end in enumerate(dimension.distribution.ends({other: value})):
            rule = f"{other} = {value} times each factor must be valid: "
            check_knobs(
                document, {**base, other: value, **dimension.assign(end)}, (*at, kind, i), knobs, check_model, rule
            )
        if len(document.faults) > before:
            return


def check_knobs(
    document: Document,
    values: dict[str, Any],
    at: Location,
    about: set[str],
    check_model: Callable[[str], None],
    prefix: str = "",
    told: Collection[str] | None = None,
) -> None:
    """A fault at this place for each rule that the knobs it is about break; other knobs have a place of their own.

    Args:
        told: rules of several knobs that are told elsewhere; None: those that the fixed knobs break.
    """
    if told is None:
        told = broken_rules(mapping_of(document.values, "fixed"))
    try:
        TrialConfig.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            of_several = not item["loc"] and at[0] != "fixed" and rule_of(item) not in told
            if of_several or (item["loc"] and item["loc"][0] in about):
                value, hint, place = None if isinstance(item["input"], dict) else item["input"], meant_by(item), at
                if (names := names_at(TrialConfig, item["loc"][:-1])) and item["type"] == "extra_forbidden":
                    value, hint, place = None, nearest(str(item["loc"][-1]), names), (*at, *item["loc"][1:])
                elif len(item["loc"]) > 1 and item["loc"][-1] in names:  # no kind of value, as pydantic tells of unions
                    place = (*at, *item["loc"][1:])
                knob = f"{item['loc'][0]}: " if len(about) > 1 and item["loc"] else ""
                document.faults.append(document.fault(place, f"{prefix}{knob}{rule_of(item)}", value, hint))
    if "model" in about and isinstance(values["model"], str) and values["model"]:
        try:
            check_model(values["model"])
        except InputError as refusal:
            document.faults += [document.fault(at, fault.rule, fault.value, fault.hint) for fault in refusal.faults]


def broken_rules(values: dict[str, Any]) -> list[str]:
    """The rules that several knobs break together."""
    try:
        TrialConfig.model_validate(values)
    except ValidationError as error:
        return [rule_of(item) for item in error.errors() if not item["loc"]]
    return []


def always_broken(fixed: dict[str, Any], dimensions: Iterable[Dimension]) -> list[str]:
    """The rules that the fixed knobs break, whatever the searched ones are; others are told where they are searched."""
    searched = list(dimensions)
    return [rule for rule in broken_rules(fixed) if not any(any(_mends(one, fixed, rule)) for one in searched)]


def _mends(dimension: Dimension, values: dict[str, Any], message: str) -> list[bool]:
    """For each end of a dimension that all trials have, whether it keeps the rule that these values break."""
    if dimension.when or isinstance(dimension.distribution, RatioOf):
        return []
    ends = dimension.distribution.ends({})
    return [message not in broken_rules({**values, **dimension.assign(end)}) for end in ends]


def _is_mended(message: str, values: dict[str, Any], others: list[Dimension]) -> bool:
    return any(mends and all(mends) for mends in (_mends(other, values, message) for other in others))
