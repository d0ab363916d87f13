"""One entry of the space: its knobs, how they vary, and under which condition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reranker.config import TrialConfig
from tune.study_file.distributions import Distribution, IntRange, RatioOf

NO_KNOB = "there is no such knob"


KNOBS = TrialConfig.model_fields


@dataclass(frozen=True)
class Dimension:
    """One entry of the space: the knob, or the knobs that vary together, how, and under which condition."""

    name: str
    knobs: tuple[str, ...]
    distribution: Distribution
    when: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def needs(self) -> set[str]:
        """Knobs that must be known before this one is drawn."""
        other = {self.distribution.other} if isinstance(self.distribution, RatioOf) else set()
        return other | set(self.when)

    def applies(self, drawn: Mapping[str, Any]) -> bool:
        """Whether its condition holds for the knobs drawn so far."""
        return all(drawn[knob] in allowed for knob, allowed in self.when.items())

    def assign(self, value: Any) -> dict[str, Any]:
        """The knobs' values, from what the distribution gave."""
        return dict(zip(self.knobs, value, strict=True)) if len(self.knobs) > 1 else {self.knobs[0]: value}


def names_of(entry: str) -> tuple[str, ...]:
    """The knobs of an entry of the space."""
    return tuple(name.strip() for name in entry.split("+"))


def size_of(value: Any) -> tuple[bool, Any]:
    """Numbers by their value; what has no order keeps its place."""
    return (True, value) if is_number(value) else (False, 0)


def is_number(value: object) -> bool:
    """Whether it is an int or a float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def with_defaults(fixed: dict[str, Any]) -> dict[str, Any]:
    """Values of all knobs; only for looking up what others depend on, as alpha follows a rank not drawn yet."""
    return {name: fixed.get(name, info.default) for name, info in KNOBS.items()}


def reach(knob: str, fixed: dict[str, Any], dimensions: tuple[Dimension, ...]) -> list[Any]:
    """The ends of what a knob can be: each choice, of a range both ends and, of whole numbers, the step above the low
    one, so that a factor which gives whole numbers for these does so for all between them."""
    own = next((dimension for dimension in dimensions if knob in dimension.knobs), None)
    values = [] if own and not own.when else [with_defaults(fixed)[knob]]
    if own is None:
        return values
    distribution = own.distribution
    if isinstance(distribution, RatioOf):
        others = [value for value in reach(distribution.other, fixed, dimensions) if is_number(value)]
        ends = [end for other in others for end in distribution.ends({distribution.other: other})]
    else:
        ends = distribution.ends({})
        if isinstance(distribution, IntRange):
            ends = [*ends, distribution.low + distribution.step]
    return values + [own.assign(end)[knob] for end in ends]


def mapping_of(values: dict[str, Any], section: str) -> dict[str, Any]:
    """A section of the study file; empty where it is missing or no mapping."""
    mapping = values.get(section)
    return mapping if isinstance(mapping, dict) else {}
