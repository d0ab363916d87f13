"""A study file → a `Study`: its settings, and the space that configurations are drawn from, checked as a whole.

Every fault of a file is found and reported at once, with file, line, field, rule, value and the nearest valid name,
before anything is loaded or started. docs/STUDY_FILES.md describes the format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import optuna
import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from reranker.config import DataConfig, StrictModel, TrialConfig
from reranker.errors import Fault, InputError, nearest
from tune.distributions import Choice, Distribution, FloatRange, IntRange, RatioOf
from tune.study_yaml import Document, Location, override, read

KNOBS = TrialConfig.model_fields
FIXED_ONLY = {
    "candidates": "lists of different length can't be compared",
    "seed": "the luckiest seed is no finding; repeat the best trials with other seeds instead",
}
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_KINDS = ("choice", "int", "uniform", "log_uniform")
_MODIFIERS = {
    "choice": {"ratio_of", "when"},
    "int": {"step", "log", "when"},
    "uniform": {"when"},
    "log_uniform": {"when"},
}


class Asha(StrictModel):
    """ASHA compares trials at epochs grace, grace·reduction, grace·reduction² … and lets the best 1/reduction go on."""

    grace: int = Field(1, ge=1)
    reduction: int = Field(3, ge=2)


class StudySettings(StrictModel):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    metric: Literal[
        "recall_at_1", "recall_at_5", "recall_at_10", "ndcg_at_5", "ndcg_at_10", "mrr_at_10", "val_loss"
    ] = "ndcg_at_10"
    trials: int = Field(ge=1)
    time_budget: str | None = None
    seed: int = Field(0, ge=0, lt=2**31)
    concurrency: int | None = Field(None, ge=1, description="trials at once; null: as many as the cluster holds")
    sampler: Literal["tpe", "random", "gp", "cmaes"] = "tpe"
    start_from: list[dict[str, Any]] = Field([], description="tried first; knobs left out are drawn")
    asha: Asha = Asha()

    @field_validator("time_budget")
    @classmethod
    def _is_a_duration(cls, text: str | None) -> str | None:
        if text is not None and (not text or not _DURATION.fullmatch(text)):
            raise ValueError("a time budget must look like 6h, 90m, 45s or 1h30m")
        return text


class Resources(StrictModel):
    workers: int = Field(1, ge=1, description="distributed processes a trial")
    cpus_per_worker: int = Field(1, ge=1)
    gpus_per_trial: Literal["auto"] | float = Field("auto", description="auto: one a worker where there are any")

    @field_validator("gpus_per_trial")
    @classmethod
    def _not_negative(cls, gpus: Literal["auto"] | float) -> Literal["auto"] | float:
        if gpus != "auto" and gpus < 0:
            raise ValueError("must not be negative")
        return gpus


class _StudyFile(StrictModel):
    study: StudySettings
    data: DataConfig
    resources: Resources = Resources()
    fixed: dict[str, Any] = Field({})
    space: dict[str, Any] = Field(min_length=1)


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
        return all(drawn[knob] in allowed for knob, allowed in self.when.items())

    def assign(self, value: Any) -> dict[str, Any]:
        """The knobs' values, from what the distribution gave."""
        return dict(zip(self.knobs, value, strict=True)) if len(self.knobs) > 1 else {self.knobs[0]: value}


@dataclass(frozen=True)
class Study:
    """A checked study. `dimensions` stand in an order in which each finds what it needs already drawn."""

    settings: StudySettings
    data: DataConfig
    resources: Resources
    fixed: dict[str, Any]
    dimensions: tuple[Dimension, ...]
    source: dict[str, Any]  # the file's values, overrides included
    start_points: tuple[dict[str, Any], ...]  # as Optuna's parameters

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def metric(self) -> str:
        return self.settings.metric

    @property
    def mode(self) -> Literal["min", "max"]:
        return "min" if self.metric.endswith("_loss") else "max"

    @property
    def time_budget_s(self) -> float | None:
        if self.settings.time_budget is None:
            return None
        match = _DURATION.fullmatch(self.settings.time_budget)
        assert match is not None
        hours, minutes, seconds = (int(group or 0) for group in match.groups())
        return float(hours * 3600 + minutes * 60 + seconds)

    @property
    def knobs(self) -> list[str]:
        """The knobs that are searched, in the order of the file."""
        return [knob for entry in self.source["space"] for knob in entry.split("+")]

    @property
    def max_epochs(self) -> int:
        return max(config.epochs for config in self.extremes())

    def draw(self, trial: optuna.Trial) -> dict[str, Any]:
        """Values of all knobs: the searched ones from the trial, the others fixed or default."""
        drawn = _with_defaults(self.fixed)
        for dimension in self.dimensions:
            if dimension.applies(drawn):
                drawn |= dimension.assign(dimension.distribution.sample(trial, dimension.name, drawn))
        return self._resolve(drawn).model_dump()

    def base(self) -> TrialConfig:
        """The configuration of the fixed knobs and defaults: what all trials have in common."""
        return TrialConfig.model_validate(self.fixed)

    def extremes(self) -> list[TrialConfig]:
        """For each model, the configuration of all lowest and of all highest ends (of all first and last choices)."""
        configs = []
        models = next((d.distribution.ends({}) for d in self.dimensions if d.knobs == ("model",)), [None])
        for model in models:
            for end in (0, -1):
                drawn = _with_defaults(self.fixed)
                for dimension in self.dimensions:
                    if dimension.applies(drawn):
                        ends = dimension.distribution.ends(drawn)
                        drawn |= dimension.assign(max(ends, key=_size) if end else min(ends, key=_size))
                    if model is not None and "model" in dimension.knobs:
                        drawn["model"] = model
                configs.append(self._resolve(drawn))
        return configs

    def dump(self) -> str:
        """The study as YAML that loads again to an equal study."""
        return yaml.safe_dump(self.source, sort_keys=False, allow_unicode=True)

    def _resolve(self, drawn: dict[str, Any]) -> TrialConfig:
        given = {knob for dimension in self.dimensions if dimension.applies(drawn) for knob in dimension.knobs}
        return TrialConfig.model_validate({knob: drawn[knob] for knob in drawn if knob in given or knob in self.fixed})


def load(path: Path, overrides: Iterable[str] = (), check_model: Callable[[str], None] = lambda model: None) -> Study:
    """Read and check a study file.

    Args:
        overrides: `KNOB=VALUE` fixes a knob; `section.field=VALUE` sets any field of the file.
        check_model: raises InputError for a model that does not exist.

    Raises:
        InputError: with every fault of the file and of the overrides.
    """
    document = read(path)
    for text in overrides:
        _override(document, text)
    parsed = _parse_sections(document)
    source: dict[str, Any] = document.values
    fixed, space = _mapping(source, "fixed"), _mapping(source, "space")
    faults = document.faults
    _check_fixed(document, fixed, check_model)
    dimensions = _in_order(document, [d for name in space if (d := _dimension(document, name, fixed))])
    if parsed is None or faults:
        raise InputError(_by_line(faults))
    study = Study(
        parsed.study,
        _resolve_paths(parsed.data, path.parent),
        parsed.resources,
        fixed,
        dimensions,
        source,
        _start_points(document, parsed.study.start_from, fixed, dimensions),
    )
    _check_ends(document, study, check_model)
    if faults:
        raise InputError(_by_line(faults))
    return study


def _override(document: Document, text: str) -> None:
    key, separator, value = text.partition("=")
    source = f"--set {text}"
    parts: Location = tuple(key.strip().split("."))
    if not separator or not all(parts):
        document.faults.append(Fault("an override must be KNOB=VALUE or section.field=VALUE", source))
    elif len(parts) == 1 and parts[0] in KNOBS:
        _mapping(document.values, "space").pop(parts[0], None)
        override(document, ("fixed", parts[0]), value, source)
    elif parts[0] in _StudyFile.model_fields and len(parts) > 1:
        override(document, parts, value, source)
    else:
        hint = nearest(str(parts[0]), [*KNOBS, *_StudyFile.model_fields])
        document.faults.append(Fault("there is no such knob or section", source, hint=hint))


def _parse_sections(document: Document) -> _StudyFile | None:
    try:
        return _StudyFile.model_validate(document.values)
    except ValidationError as error:
        for item in error.errors():
            at, model = _place(item["loc"])
            if item["type"] == "extra_forbidden":
                hint = nearest(str(at[-1]), model.model_fields) if model else ""
                fault = document.fault(at, "there is no such field here", hint=hint)
            elif item["type"] == "missing":
                fault = document.fault(at, "this must be given")
            else:
                rule = item["msg"].removeprefix("Value error, ")
                value = None if isinstance(item["input"], dict | list) else item["input"]
                fault = document.fault(at, rule[0].lower() + rule[1:], value)
            document.faults.append(fault)
        return None


def _place(location: tuple[int | str, ...]) -> tuple[Location, type[BaseModel] | None]:
    """A location of pydantic's, without the tags of unions, and the model that the last part is a field of."""
    model: Any = _StudyFile
    at: list[int | str] = []
    for part in location:
        choices = {tag: option for option in _models(model) for tag in _tags(option)}
        if part in choices:  # the tag of a discriminated union is no part of the file
            model = choices[part]
            continue
        at.append(part)
        if part == location[-1]:
            break
        owner = next((option for option in _models(model) if part in option.model_fields), None)
        model = owner.model_fields[str(part)].annotation if owner else None
    last = _models(model)
    return tuple(at), last[0] if len(last) == 1 else None


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType) or hasattr(annotation, "__metadata__"):
        return [model for option in get_args(annotation) for model in _models(option)]
    return []


def _tags(model: type[BaseModel]) -> list[str]:
    source = model.model_fields.get("source")
    return [str(source.default)] if source else []


def _check_fixed(document: Document, fixed: dict[str, Any], check_model: Callable[[str], None]) -> None:
    for knob, value in fixed.items():
        if knob not in KNOBS:
            hint = nearest(knob, KNOBS)
            document.faults.append(document.fault(("fixed", knob), "there is no such knob", hint=hint))
        elif knob == "model":
            _check_model(document, ("fixed", "model"), value, check_model)
    known = {knob: value for knob, value in fixed.items() if knob in KNOBS}
    _try_config(document, known, lambda knob: ("fixed", knob))


def _dimension(document: Document, name: str, fixed: dict[str, Any]) -> Dimension | None:
    at: Location = ("space", name)
    entry = document.values["space"][name]
    before = len(document.faults)
    knobs = tuple(name.split("+"))
    for knob in knobs:
        if knob not in KNOBS:
            document.faults.append(document.fault(at, "there is no such knob", knob, nearest(knob, KNOBS)))
        elif knob in FIXED_ONLY:
            document.faults.append(document.fault(at, f"this knob can't be searched: {FIXED_ONLY[knob]}"))
        elif knob in fixed:
            document.faults.append(document.fault(at, "a knob must not be both fixed and searched"))
    if not isinstance(entry, dict):
        rule = "how a knob varies must be a mapping, such as {choice: […]} or {log_uniform: [low, high]}"
        document.faults.append(document.fault(at, rule, entry))
        return None
    kinds = [key for key in entry if key in _KINDS]
    if len(kinds) != 1:
        document.faults.append(document.fault(at, f"exactly one of {', '.join(_KINDS)} must be given", list(entry)))
        return None
    for key in entry.keys() - {kinds[0]} - _MODIFIERS[kinds[0]]:
        hint = nearest(key, {kinds[0], *_MODIFIERS[kinds[0]]})
        document.faults.append(document.fault((*at, key), f"this does not go with {kinds[0]}", hint=hint))
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
    if len(knobs) > 1 or other not in KNOBS or other == knobs[0]:
        rule = "ratio_of must name another knob"
        document.faults.append(document.fault((*at, "ratio_of"), rule, other, nearest(str(other), KNOBS)))
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
    for knob in condition:
        if knob not in KNOBS or knob in knobs:
            rule = "a condition must name another knob"
            document.faults.append(document.fault((*at, "when", knob), rule, hint=nearest(knob, KNOBS)))
    return {knob: tuple(value) if isinstance(value, list) else (value,) for knob, value in condition.items()}


def _in_order(document: Document, dimensions: list[Dimension]) -> tuple[Dimension, ...]:
    """Each after those it needs; otherwise as in the file."""
    ordered: list[Dimension] = []
    waiting = list(dimensions)
    while waiting:
        open_knobs = {knob for dimension in waiting for knob in dimension.knobs}
        ready = next((d for d in waiting if not d.needs() & (open_knobs - set(d.knobs))), None)
        if ready is None:
            names = " and ".join(d.name for d in waiting)
            document.faults.append(document.fault(("space", waiting[0].name), f"{names} depend on each other"))
            return ()
        waiting.remove(ready)
        ordered.append(ready)
    return tuple(ordered)


def _start_points(
    document: Document, points: list[dict[str, Any]], fixed: dict[str, Any], dimensions: tuple[Dimension, ...]
) -> tuple[dict[str, Any], ...]:
    """The configurations to start from as Optuna's parameters; a fault for each value that is not in the space."""
    started = []
    for i, point in enumerate(points):
        at: Location = ("study", "start_from", i)
        searched = {knob for dimension in dimensions for knob in dimension.knobs}
        for knob, value in point.items():
            if knob not in KNOBS:
                document.faults.append(document.fault((*at, knob), "there is no such knob", hint=nearest(knob, KNOBS)))
            elif knob not in searched and value != (have := _with_defaults(fixed)[knob]):
                document.faults.append(document.fault((*at, knob), f"this knob is not searched and is {have!r}", value))
        parameters, known = {}, {**_with_defaults(fixed), **{k: v for k, v in point.items() if k in KNOBS}}
        for dimension in dimensions:
            given = [knob for knob in dimension.knobs if knob in point]
            if not given or not dimension.applies(known):
                continue
            if len(given) < len(dimension.knobs):
                document.faults.append(document.fault(at, f"{dimension.name} must be given together", given))
                continue
            value = point[given[0]] if len(given) == 1 else [point[knob] for knob in dimension.knobs]
            try:
                parameters[dimension.name] = dimension.distribution.parameter(value, known)
            except ValueError as error:
                document.faults.append(document.fault((*at, given[0]), str(error), value))
        started.append(parameters)
    return tuple(started)


def _check_ends(document: Document, study: Study, check_model: Callable[[str], None]) -> None:
    """Each end of each range, each choice, must build a configuration while the others are at an end of theirs."""
    for dimension in study.dimensions:
        drawn = _with_defaults(study.fixed)
        for other in study.dimensions:
            if other is not dimension and other.applies(drawn):
                drawn |= other.assign(other.distribution.ends(drawn)[0])
        drawn |= {knob: allowed[0] for knob, allowed in dimension.when.items()}
        at: Location = ("space", dimension.name)
        for end in dimension.distribution.ends(drawn):
            assigned = dimension.assign(end)
            if "model" in assigned:
                _check_model(document, at, assigned["model"], check_model)
            alpha = {} if "lora_alpha" in study.fixed or "lora_alpha" in study.knobs else {"lora_alpha": None}
            _try_config(document, {**drawn, **alpha, **assigned}, lambda knob, at=at: at)  # type: ignore[misc]
    if study.settings.asha.grace > 1 and not document.faults and study.settings.asha.grace > study.max_epochs:
        rule = f"the grace period must not be beyond the longest trial, {study.max_epochs} epochs"
        document.faults.append(document.fault(("study", "asha", "grace"), rule, study.settings.asha.grace))


def _check_model(document: Document, at: Location, model: Any, check_model: Callable[[str], None]) -> None:
    try:
        check_model(str(model))
    except InputError as error:
        document.faults += [document.fault(at, fault.rule, fault.value, fault.hint) for fault in error.faults]


def _try_config(document: Document, values: dict[str, Any], place: Callable[[str], Location]) -> None:
    try:
        TrialConfig.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            knob = str(item["loc"][0]) if item["loc"] else ""
            rule = item["msg"].removeprefix("Value error, ")
            value = None if isinstance(item["input"], dict) else item["input"]
            fault = document.fault(place(knob), f"{knob}: {rule[0].lower()}{rule[1:]}", value)
            if fault not in document.faults:
                document.faults.append(fault)


def _resolve_paths(data: DataConfig, folder: Path) -> DataConfig:
    """Relative paths are the study file's neighbours, or else stand in the current folder."""
    changed = {
        name: (folder / value if (folder / value).exists() else value.absolute())
        for name, value in data
        if isinstance(value, Path) and not value.is_absolute()
    }
    return data.model_copy(update=changed)


def _with_defaults(fixed: dict[str, Any]) -> dict[str, Any]:
    """Values of all knobs; only for looking up what others depend on, as alpha follows a rank not drawn yet."""
    return {name: fixed.get(name, info.default) for name, info in KNOBS.items()}


def _mapping(values: dict[str, Any], section: str) -> dict[str, Any]:
    found = values.get(section)
    return found if isinstance(found, dict) else {}


def _size(value: Any) -> tuple[bool, Any]:
    """Numbers by their value; what has no order keeps its place."""
    return (True, value) if isinstance(value, int | float) else (False, 0)


def _by_line(faults: list[Fault]) -> list[Fault]:
    return sorted(faults, key=lambda fault: (fault.file, fault.line or 0))
