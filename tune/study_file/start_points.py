"""The configurations that a search begins with: `study.start_from`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reranker.config import TrialConfig
from reranker.errors import nearest
from reranker.storage.yaml_lines import Document, Location
from tune.study_file.dimensions import KNOBS, NO_KNOB, Dimension, mapping_of, names_of, with_defaults
from tune.study_file.distributions import Parameters


def points_of(document: Document) -> list[tuple[Location, dict[str, Any]]]:
    """The configurations to start from, each with its place."""
    points = mapping_of(document.values, "study").get("start_from")
    numbered = enumerate(points if isinstance(points, list) else [])
    return [(("study", "start_from", i), point) for i, point in numbered if isinstance(point, dict)]


def read_start_point(
    document: Document, at: Location, point: Mapping[str, Any], fixed: dict[str, Any], sound: list[Dimension]
) -> Parameters:
    """A configuration to start from as Optuna's parameters; a fault for each value that is not in the space."""
    parameters: Parameters = {}
    values_so_far, given = with_defaults(fixed), dict(fixed)
    drawn: set[str] = set()  # knobs that the search will draw, since the point leaves them out
    faulty = {knob for name in mapping_of(document.values, "space") for knob in names_of(name)}
    faulty -= {knob for dimension in sound for knob in dimension.knobs}
    settled = faulty | (mapping_of(document.values, "fixed").keys() - fixed.keys())  # they have a fault of their own
    if "lora_rank" in settled:
        settled.add("lora_alpha")
    for dimension in sound:
        if dimension.needs() & faulty:
            settled |= set(dimension.knobs)
            continue
        if not drawn & dimension.when.keys() and not dimension.applies(values_so_far):
            continue
        settled |= set(dimension.knobs)
        named = [knob for knob in dimension.knobs if knob in point]
        if not named:
            drawn |= set(dimension.knobs)
            continue
        missing = set(dimension.knobs) - point.keys() | (dimension.needs() - dimension.when.keys()) & drawn
        if missing:
            rule = f"this can't be given without {', '.join(sorted(missing))}, which it depends on"
            document.faults.append(document.fault((*at, named[0]), rule, point[named[0]]))
            continue
        values = [point[knob] for knob in dimension.knobs]
        value = values if len(values) > 1 else values[0]
        try:
            parameters[dimension.name] = dimension.distribution.parameter(value, values_so_far)
        except ValueError as error:
            document.faults.append(document.fault((*at, named[0]), str(error), value))
        else:
            values_so_far |= dimension.assign(value)
            given |= dimension.assign(value)
    for knob, value in point.items():
        if knob not in KNOBS:
            document.faults.append(document.fault((*at, knob), NO_KNOB, hint=nearest(knob, KNOBS)))
        elif knob not in settled and value != (kept := kept_value(knob, given)):
            document.faults.append(
                document.fault((*at, knob), f"this knob is not searched here and is {kept!r}", value)
            )
    return parameters


def kept_value(knob: str, given: dict[str, Any]) -> Any:
    """What a knob that is not drawn is beside the given ones: its fixed value, its default, or alpha by the rank."""
    beside = {name: given[name] for name in (knob, "lora_rank") if name in given}
    return TrialConfig.model_validate(beside).model_dump()[knob]
