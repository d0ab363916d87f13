"""The ways in which a study file lets a knob vary → draws from an Optuna trial. One class a way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna

from reranker.errors import nearest

Parameter = bool | int | float | str | None  # as Optuna stores a dimension's value
Parameters = dict[str, Parameter]  # by the dimension's name


@dataclass(frozen=True)
class Choice:
    """One of the listed values. Optuna knows values that are no scalars by their JSON text."""

    options: tuple[Any, ...]

    def sample(self, trial: optuna.Trial, name: str, drawn: Mapping[str, Any]) -> Any:
        """The value that the trial draws."""
        labels = [_label(option) for option in self.options]
        return self.options[labels.index(trial.suggest_categorical(name, labels))]

    def ends(self, drawn: Mapping[str, Any]) -> list[Any]:
        """Every choice."""
        return list(self.options)

    all = ends

    @property
    def count(self) -> int:
        """How many values a grid has of it."""
        return len(self.options)

    def parameter(self, value: Any, drawn: Mapping[str, Any]) -> Parameter:
        """What Optuna stores for this value; ValueError says why it cannot be drawn."""
        if value not in self.options:
            texts = [str(option) for option in self.options]
            raise ValueError(f"must be one of the choices; {nearest(str(value), texts)}")
        return _label(value)


@dataclass(frozen=True)
class IntRange:
    """Whole numbers from low to high, both included, in steps, or evenly in the logarithm."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    def sample(self, trial: optuna.Trial, name: str, drawn: Mapping[str, Any]) -> int:
        """The value that the trial draws."""
        return int(trial.suggest_int(name, self.low, self.high, step=self.step, log=self.log))

    def ends(self, drawn: Mapping[str, Any]) -> list[Any]:
        """Both ends."""
        return [self.low, self.high]

    def all(self, drawn: Mapping[str, Any]) -> list[Any]:
        """Every value, for a grid."""
        return list(range(self.low, self.high + 1, self.step))

    @property
    def count(self) -> int:
        """How many values a grid has of it."""
        return (self.high - self.low) // self.step + 1

    def parameter(self, value: Any, drawn: Mapping[str, Any]) -> Parameter:
        """What Optuna stores for this value; ValueError says why it cannot be drawn."""
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or not self.low <= value <= self.high
            or (value - self.low) % self.step
        ):
            steps = f" in steps of {self.step}" if self.step > 1 else ""
            raise ValueError(f"must be a whole number from {self.low} to {self.high}{steps}")
        return value


@dataclass(frozen=True)
class FloatRange:
    """Numbers from low to high, evenly or, with `log`, evenly in the logarithm."""

    low: float
    high: float
    log: bool

    def sample(self, trial: optuna.Trial, name: str, drawn: Mapping[str, Any]) -> float:
        """The value that the trial draws."""
        return float(trial.suggest_float(name, self.low, self.high, log=self.log))

    def ends(self, drawn: Mapping[str, Any]) -> list[Any]:
        """Both ends."""
        return [self.low, self.high]

    def all(self, drawn: Mapping[str, Any]) -> list[Any]:
        """Every value, for a grid."""
        raise ValueError("a range of real numbers has no list of values")

    @property
    def count(self) -> int:
        """How many values a grid has of it."""
        raise ValueError("a range of real numbers has no list of values")

    def parameter(self, value: Any, drawn: Mapping[str, Any]) -> Parameter:
        """What Optuna stores for this value; ValueError says why it cannot be drawn."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            raise ValueError(f"must be a number from {self.low:g} to {self.high:g}")
        return float(value)


@dataclass(frozen=True)
class RatioOf:
    """A factor times the value of another knob, drawn before; what Optuna searches is the factor."""

    other: str
    factors: tuple[float, ...]
    whole: bool  # the knob takes whole numbers

    def sample(self, trial: optuna.Trial, name: str, drawn: Mapping[str, Any]) -> Any:
        """The value that the trial draws."""
        return self._times(trial.suggest_categorical(name, list(self.factors)), drawn)

    def ends(self, drawn: Mapping[str, Any]) -> list[Any]:
        """What each factor gives."""
        return [self._times(factor, drawn) for factor in self.factors]

    all = ends

    @property
    def count(self) -> int:
        """How many values a grid has of it."""
        return len(self.factors)

    def parameter(self, value: Any, drawn: Mapping[str, Any]) -> Parameter:
        """What Optuna stores for this value; ValueError says why it cannot be drawn."""
        for factor in self.factors:
            if self._times(factor, drawn) == value:
                return factor
        allowed = ", ".join(str(end) for end in self.ends(drawn))
        raise ValueError(f"must be {self.other} ({drawn[self.other]}) times one of the factors: {allowed}")

    def _times(self, factor: float, drawn: Mapping[str, Any]) -> Any:
        value = factor * drawn[self.other]
        return int(value) if self.whole and float(value).is_integer() else value


Distribution = Choice | IntRange | FloatRange | RatioOf


def _label(option: Any) -> Parameter:
    return option if option is None or isinstance(option, bool | int | float | str) else json.dumps(option)
