"""A study file → a `Study`: its settings, and the space that configurations are drawn from, checked as a whole.

Every fault of a file is found and reported at once, with file, line, field, rule, value and the nearest valid name,
before anything is loaded or started.

An entry of `space` is a knob and how it varies: `{choice: […]}`, `{int: [low, high]}` with `step` or `log`,
`{uniform: [low, high]}`, `{log_uniform: [low, high]}`, or `{ratio_of: other, choice: [factors]}`, which multiplies
another knob's value. Knobs joined by + vary together: `epochs+learning_rate: {choice: [[3, 1e-3], [10, 1e-4]]}`. With
`when: {other: value or [values]}` an entry is drawn only where each condition holds; elsewhere its knobs keep their
fixed or default value. A condition that no trial meets is no fault: a search narrowed by an override has such.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import optuna
from pydantic import BaseModel, Field, ValidationError, field_validator

from reranker.config import DataConfig, StrictModel, TrialConfig, absolute_paths, auto_or_int
from reranker.errors import Fault, InputError, nearest
from reranker.yaml_text import Document, Location, dump, override, read
from tune.distributions import Choice, Distribution, FloatRange, IntRange, RatioOf

KNOBS = TrialConfig.model_fields
FIXED_ONLY = {
    "candidates": "lists of different length can't be compared",
    "seed": "the luckiest seed is no finding; repeat the best trials with other seeds instead",
}
MOST_TRIALS = 100_000
DECAYING = {"linear", "cosine"}
NO_KNOB = "there is no such knob"
ALPHA_FOLLOWS = "lora_alpha, not given, is twice lora_rank; name lora_rank instead, or give lora_alpha"
_DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)
_KINDS = ("choice", "int", "uniform", "log_uniform")
_MODIFIERS = {
    "choice": {"ratio_of", "when"},
    "int": {"step", "log", "when"},
    "uniform": {"when"},
    "log_uniform": {"when"},
}


class Asha(StrictModel):
    """ASHA compares trials at epochs grace, grace·reduction, grace·reduction² … and lets the best 1/reduction go on.

    With a decaying schedule it compares them at as many fractions of their own epochs: … 1/reduction², 1/reduction.
    Those that are behind go on too if they would catch up by the next rung, `pace` times as fast as they come.
    """

    grace: int | None = Field(
        None, ge=1, le=10_000, description="null: a ninth of the longest trial's epochs, at least 1"
    )
    reduction: int = Field(3, ge=2, le=10_000)
    pace: float = Field(0.6, ge=0, le=1, description="0: plain ASHA, which prefers rates that are fast at first")


class StudySettings(StrictModel):
    name: str = Field(max_length=100)
    metric: Literal[
        "recall_at_1", "recall_at_5", "recall_at_10", "ndcg_at_5", "ndcg_at_10", "mrr_at_10", "val_loss"
    ] = "ndcg_at_10"
    trials: int = Field(ge=1, le=MOST_TRIALS)
    time_budget: str | None = None
    seed: int = Field(0, ge=0, lt=2**31)
    concurrency: int | None = Field(
        None, ge=1, le=10_000, description="trials at once; null: as many as the cluster holds"
    )
    sampler: Literal["tpe", "random", "gp", "cmaes", "grid"] = "tpe"
    scheduler: Literal["asha", "hyperband", "median", "none"] = "asha"
    patience: int | None = Field(
        None, ge=1, le=MOST_TRIALS, description="end after so many trials without a gain above the noise"
    )
    max_failures: int | None = Field(
        10, ge=1, le=MOST_TRIALS, description="end after so many failed trials; null: never"
    )
    start_from: list[dict[str, Any]] = Field([], description="tried first; knobs left out are drawn")
    asha: Asha = Asha()

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError("must be letters, digits, '.', '_' and '-', the first one a letter or digit")
        return name

    @field_validator("time_budget", mode="before")
    @classmethod
    def _is_a_duration(cls, text: object) -> object:
        match = _DURATION.fullmatch(text) if isinstance(text, str) else None
        if text is not None and not (match and any(int(group or 0) for group in match.groups())):
            raise ValueError("a time budget must look like 6h, 90m, 45s or 1h30m, and be above 0")
        return text


class Resources(StrictModel):
    workers: int = Field(1, ge=1, le=10_000, description="distributed processes a trial")
    cpus_per_worker: Annotated[Literal["auto"] | int, auto_or_int(1, 10_000)] = Field(
        "auto", description="each with a thread; auto: one, or for a real model without a GPU up to four"
    )
    gpus_per_trial: Literal["auto"] | float = Field("auto", description="auto: one a worker, or the part it needs")
    isolation: Literal["slot", "trial"] = Field("slot", description="trial: new worker processes for each trial")
    idle_seconds: float = Field(
        60, ge=0, le=1e9, description="after so long a paused search gives back what its trials hold"
    )

    @field_validator("gpus_per_trial", mode="before")
    @classmethod
    def _auto_or_a_number(cls, gpus: object) -> object:
        if gpus != "auto" and (isinstance(gpus, bool) or not isinstance(gpus, int | float) or gpus < 0):
            raise ValueError("must be auto or a number from 0")
        return gpus


class _StudyFile(StrictModel):
    study: StudySettings
    data: DataConfig
    resources: Resources = Resources()
    fixed: dict[str, Any] = Field({})
    space: dict[str, Any] = Field(min_length=1)


_DATA = {model.model_fields["source"].default: model for model in get_args(get_args(DataConfig)[0])}
_SECTIONS: dict[Location, type[BaseModel]] = {
    (): _StudyFile,
    ("study",): StudySettings,
    ("study", "asha"): Asha,
    ("resources",): Resources,
}
_RULES = {  # of pydantic's findings that speak of Python
    "missing": "this must be given",
    "extra_forbidden": "there is no such field here",
    "union_tag_not_found": "this must be given",
    "union_tag_invalid": "there is no such source",
    "dict_type": "must be a mapping of names to values",
    "model_type": "must be a mapping of names to values",
    "model_attributes_type": "must be a mapping of names to values",
    "list_type": "must be a list",
    "string_type": "must be text",
    "too_short": "must name at least one knob to search",
}


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
    start_points: tuple[dict[str, Any], ...]  # as Optuna's parameters; what a point leaves out is drawn

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
        return [knob for entry in self.source["space"] for knob in _names(entry)]

    @property
    def max_epochs(self) -> int:
        """Of the longest trial that can be drawn."""
        return int(max(_reach("epochs", self.fixed, self.dimensions)))

    @property
    def grace(self) -> int:
        """The epoch of the first rung."""
        return self.settings.asha.grace or max(1, self.max_epochs // 9)

    @property
    def clock(self) -> Literal["epoch", "progress"]:
        """What trials are compared on: a rate that decays towards a trial's own end makes its epochs its own too."""
        return "progress" if DECAYING & set(_reach("schedule", self.fixed, self.dimensions)) else "epoch"

    @property
    def models(self) -> list[str]:
        """All that can be drawn."""
        return list(_reach("model", self.fixed, self.dimensions))

    @property
    def fingerprint(self) -> str:
        """Equal for studies whose trials can be compared and share a sampler: same data, metric, fixed knobs, space."""
        asked = [self.metric, self.data.model_dump(mode="json"), self.fixed, self.source["space"]]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    def draw(self, trial: optuna.Trial) -> dict[str, Any]:
        """Values of all knobs: the searched ones from the trial, the others fixed or default."""
        drawn = _with_defaults(self.fixed)
        for dimension in self.dimensions:
            if dimension.applies(drawn):
                drawn |= dimension.assign(dimension.distribution.sample(trial, dimension.name, drawn))
        return self._resolve(drawn).model_dump()

    def parameters(self, point: dict[str, Any], source: str) -> dict[str, Any]:
        """A configuration as Optuna's parameters; what it leaves out is not among them.

        Args:
            source: what a fault will cite.

        Raises:
            InputError: with a fault for each value that is not in the space.
        """
        document = Document(self.source, {(): (source, None)})
        parameters = _start_point(document, (), point, self.fixed, list(self.dimensions))
        if document.faults:
            raise InputError(document.faults)
        return parameters

    def grid(self) -> list[dict[str, Any]]:
        """Every configuration of a space of lists, as Optuna's parameters, the last knob of the file varying fastest."""
        points: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, _with_defaults(self.fixed))]
        for dimension in self.dimensions:
            longer = []
            for parameters, drawn in points:
                if not dimension.applies(drawn):
                    longer.append((parameters, drawn))
                    continue
                for value in dimension.distribution.all(drawn):
                    parameter = dimension.distribution.parameter(value, drawn)
                    longer.append(({**parameters, dimension.name: parameter}, {**drawn, **dimension.assign(value)}))
            points = longer
        return [parameters for parameters, _ in points]

    def base(self) -> TrialConfig:
        """The configuration of the fixed knobs and defaults: what all trials have in common."""
        return TrialConfig.model_validate(self.fixed)

    def extremes(self) -> list[TrialConfig]:
        """For each model, the configuration of all lowest and of all highest ends (of all first and last choices)."""
        configs = []
        for model in self.models:
            for end in (0, -1):
                drawn = _with_defaults(self.fixed)
                for dimension in self.dimensions:
                    if dimension.applies(drawn):
                        ends = dimension.distribution.ends(drawn)
                        drawn |= dimension.assign(sorted(ends, key=_size)[end])
                    if "model" in dimension.knobs:
                        drawn["model"] = model
                configs.append(self._resolve(drawn))
        return configs

    def dump(self) -> str:
        """The study as YAML that loads again to an equal study."""
        return dump(self.source)

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
    _apply_overrides(document, overrides)
    parsed = _parse_sections(document)
    fixed, space = _check_fixed(document, check_model), _mapping(document.values, "space")
    dimensions = _in_order(document, [entry for name in space if (entry := _dimension(document, name))])
    sound = []
    for dimension in dimensions:
        before = len(document.faults)
        _check_when(document, dimension, fixed, check_model)
        _check_ends(document, dimension, fixed, dimensions, check_model)
        sound += [dimension] if len(document.faults) == before else []
    start_points = tuple(_start_point(document, at, point, fixed, sound) for at, point in _points(document))
    if parsed and not document.faults:
        longest, grace = max(_reach("epochs", fixed, dimensions)), parsed.study.asha.grace or 1
        if grace > longest:
            rule = f"the grace period must not be beyond the longest trial, {longest} epochs"
            document.faults.append(document.fault(("study", "asha", "grace"), rule, grace))
        _check_fidelity(document, parsed.study, fixed, dimensions)
    if parsed is None or document.faults:
        raise InputError(sorted(document.faults, key=lambda fault: (fault.file, fault.line or 0)))
    paths = absolute_paths(parsed.data, path.parent)
    study = Study(
        parsed.study,
        parsed.data.model_copy(update=paths),
        parsed.resources,
        fixed,
        dimensions,
        {**document.values, "data": {**document.values["data"], **{name: str(path) for name, path in paths.items()}}},
        start_points,
    )
    if parsed.study.sampler != "grid":
        return study
    return replace(study, settings=parsed.study.model_copy(update={"trials": len(study.grid())}))


def _check_fidelity(
    document: Document, settings: StudySettings, fixed: dict[str, Any], dimensions: tuple[Dimension, ...]
) -> None:
    """What trials are compared on before their end must mean the same for all of them; a grid needs lists."""
    schedules = set(_reach("schedule", fixed, dimensions))
    if settings.scheduler != "none" and schedules & DECAYING and schedules - DECAYING:
        own = next(dimension.name for dimension in dimensions if "schedule" in dimension.knobs)
        rule = (
            "schedules that decay towards a trial's own end can't be compared early with a constant one: "
            "search one kind, or stop nothing early (study.scheduler: none)"
        )
        document.faults.append(document.fault(("space", own), rule, ", ".join(sorted(schedules))))
    if settings.sampler == "grid":
        for dimension in dimensions:
            if isinstance(dimension.distribution, FloatRange):
                rule = "a grid needs the values one by one: {choice: […]}, or {int: [low, high]} with a step"
                document.faults.append(document.fault(("space", dimension.name), rule))
                return
        most = math.prod(dimension.distribution.count for dimension in dimensions)
        if most > MOST_TRIALS:
            rule = f"a grid must have at most {MOST_TRIALS:,} combinations"
            document.faults.append(document.fault(("study", "sampler"), rule, most))


def _apply_overrides(document: Document, overrides: Iterable[str]) -> None:
    """Put the values of the command line into the document. A knob that is fixed so leaves the space and start_from."""
    fixed: set[Any] = set()
    for text in overrides:
        key, separator, value = text.partition("=")
        source = f"--set {text}"
        parts: Location = tuple(part.strip() for part in key.split("."))
        if separator and len(parts) == 1 and parts[0] in KNOBS:
            fixed.add(parts[0])
            override(document, ("fixed", parts[0]), value, source)
        elif separator and all(parts) and len(parts) > 1 and parts[0] in _StudyFile.model_fields:
            override(document, parts, value, source)
        elif not separator or not all(parts) or parts[0] in {*KNOBS, *_StudyFile.model_fields}:
            document.faults.append(Fault("an override must be KNOB=VALUE or section.field=VALUE", source))
        else:
            hint = nearest(str(parts[0]), [*KNOBS, *_StudyFile.model_fields])
            document.faults.append(Fault("there is no such knob or section", source, hint=hint))
    space = _mapping(document.values, "space")
    for name in [name for name in space if fixed.issuperset(_names(name))]:
        del space[name]
    for _, point in _points(document):
        for knob in fixed & point.keys():
            del point[knob]


def _parse_sections(document: Document) -> _StudyFile | None:
    try:
        return _StudyFile.model_validate(document.values)
    except ValidationError as error:
        for item in error.errors():
            kind, at, value, hint = item["type"], item["loc"], item["input"], ""
            if at[0] == "data" and len(at) > 1:  # pydantic puts the source behind it, which is no part of the place
                siblings, at = _DATA[at[1]], ("data", *at[2:])
            else:
                siblings = _SECTIONS.get(at[:-1], _StudyFile)
            if kind == "extra_forbidden":
                value, hint = None, nearest(str(at[-1]), siblings.model_fields)
            elif kind.startswith("union_tag"):
                at, value = ("data", "source"), item.get("ctx", {}).get("tag")
                hint = nearest(str(value), _DATA)
            elif kind == "literal_error":
                hint = nearest(str(value), re.findall(r"'([^']*)'", item["ctx"]["expected"]))
            rule = _RULES.get(kind, "") or _sentence(item["msg"])
            document.faults.append(document.fault(at, rule, None if isinstance(value, dict | list) else value, hint))
        return None


def _check_fixed(document: Document, check_model: Callable[[str], None]) -> dict[str, Any]:
    """The fixed knobs that have no fault."""
    fixed = {}
    for knob, value in _mapping(document.values, "fixed").items():
        before = len(document.faults)
        if knob in KNOBS:
            _check_knobs(document, {knob: value}, ("fixed", knob), {knob}, check_model)
        else:
            document.faults.append(document.fault(("fixed", knob), NO_KNOB, hint=nearest(knob, KNOBS)))
        if len(document.faults) == before:
            fixed[knob] = value
    return fixed


def _dimension(document: Document, name: str) -> Dimension | None:
    at: Location = ("space", name)
    entry = document.values["space"][name]
    before = len(document.faults)
    knobs = _names(name)
    conditional = isinstance(entry, dict) and "when" in entry
    elsewhere = [knob for other in document.values["space"] if other != name for knob in _names(other)]
    for i, knob in enumerate(knobs):
        if knob not in KNOBS:
            document.faults.append(document.fault(at, NO_KNOB, knob, nearest(knob, KNOBS)))
        elif knob in FIXED_ONLY:
            document.faults.append(document.fault(at, f"this knob can't be searched: {FIXED_ONLY[knob]}"))
        elif knob in elsewhere or knob in knobs[:i]:
            document.faults.append(document.fault(at, "a knob must stand in one entry of the space", knob))
        elif knob in _mapping(document.values, "fixed") and not (conditional and len(knobs) == 1):
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
    if len(knobs) > 1 or not isinstance(other, str) or other not in KNOBS or other == knobs[0]:
        hint = nearest(str(other), KNOBS.keys() - set(knobs))
        rule = "ratio_of must name another knob, for one knob alone"
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
    space = _mapping(document.values, "space")
    given = {name for entry in space if "when" not in _mapping(space, entry) for name in _names(entry)}
    return knob == "lora_alpha" and knob not in given | _mapping(document.values, "fixed").keys()


def _in_order(document: Document, dimensions: list[Dimension]) -> tuple[Dimension, ...]:
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


def _check_when(
    document: Document, dimension: Dimension, fixed: dict[str, Any], check_model: Callable[[str], None]
) -> None:
    """Each value of a condition must be one that its knob can have."""
    for knob, allowed in dimension.when.items():
        for value in allowed:
            at: Location = ("space", dimension.name, "when", knob)
            _check_knobs(document, {**fixed, knob: value}, at, {knob}, check_model)


def _check_ends(
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
        for i, end in enumerate(dimension.distribution.ends({})):
            _check_knobs(document, {**base, **dimension.assign(end)}, (*at, kind, i), knobs, check_model, rule)
        return
    other = dimension.distribution.other
    for value in _reach(other, fixed, dimensions):
        if not _is_number(value):
            rule = f"ratio_of must name a knob whose values are all numbers; {other} can be {json.dumps(value)}"
            document.faults.append(document.fault((*at, "ratio_of"), rule))
            return
        before = len(document.faults)
        for i, end in enumerate(dimension.distribution.ends({other: value})):
            rule = f"{other} = {value} times each factor must be valid: "
            _check_knobs(
                document, {**base, other: value, **dimension.assign(end)}, (*at, kind, i), knobs, check_model, rule
            )
        if len(document.faults) > before:
            return


def _check_knobs(
    document: Document,
    values: dict[str, Any],
    at: Location,
    about: set[str],
    check_model: Callable[[str], None],
    prefix: str = "",
) -> None:
    """A fault at this place for each rule that the knobs it is about break; other knobs have a place of their own."""
    try:
        TrialConfig.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            if not item["loc"] or item["loc"][0] in about:
                value = None if isinstance(item["input"], dict) else item["input"]
                knob = f"{item['loc'][0]}: " if len(about) > 1 and item["loc"] else ""
                document.faults.append(document.fault(at, f"{prefix}{knob}{_sentence(item['msg'])}", value))
    if "model" in about and isinstance(values["model"], str) and values["model"]:
        try:
            check_model(values["model"])
        except InputError as refusal:
            document.faults += [document.fault(at, fault.rule, fault.value, fault.hint) for fault in refusal.faults]


def _reach(knob: str, fixed: dict[str, Any], dimensions: tuple[Dimension, ...]) -> list[Any]:
    """The ends of what a knob can be: each choice, of a range both ends and, of whole numbers, the step above the low
    one, so that a factor which gives whole numbers for these does so for all between them."""
    own = next((dimension for dimension in dimensions if knob in dimension.knobs), None)
    values = [] if own and not own.when else [_with_defaults(fixed)[knob]]
    if own is None:
        return values
    distribution = own.distribution
    if isinstance(distribution, RatioOf):
        others = [value for value in _reach(distribution.other, fixed, dimensions) if _is_number(value)]
        ends = [end for other in others for end in distribution.ends({distribution.other: other})]
    else:
        ends = distribution.ends({})
        if isinstance(distribution, IntRange):
            ends = [*ends, distribution.low + distribution.step]
    return values + [own.assign(end)[knob] for end in ends]


def _points(document: Document) -> list[tuple[Location, dict[str, Any]]]:
    """The configurations to start from, each with its place."""
    points = _mapping(document.values, "study").get("start_from")
    found = enumerate(points if isinstance(points, list) else [])
    return [(("study", "start_from", i), point) for i, point in found if isinstance(point, dict)]


def _start_point(
    document: Document, at: Location, point: dict[str, Any], fixed: dict[str, Any], sound: list[Dimension]
) -> dict[str, Any]:
    """A configuration to start from as Optuna's parameters; a fault for each value that is not in the space."""
    parameters: dict[str, Any] = {}
    known, given = _with_defaults(fixed), dict(fixed)
    drawn: set[str] = set()  # knobs that the search will draw, since the point leaves them out
    faulty = {knob for name in _mapping(document.values, "space") for knob in _names(name)}
    faulty -= {knob for dimension in sound for knob in dimension.knobs}
    settled = faulty | (_mapping(document.values, "fixed").keys() - fixed.keys())  # they have a fault of their own
    if "lora_rank" in settled:
        settled.add("lora_alpha")
    for dimension in sound:
        if dimension.needs() & faulty:
            settled |= set(dimension.knobs)
            continue
        if not drawn & dimension.when.keys() and not dimension.applies(known):
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
            parameters[dimension.name] = dimension.distribution.parameter(value, known)
        except ValueError as error:
            document.faults.append(document.fault((*at, named[0]), str(error), value))
        else:
            known |= dimension.assign(value)
            given |= dimension.assign(value)
    for knob, value in point.items():
        if knob not in KNOBS:
            document.faults.append(document.fault((*at, knob), NO_KNOB, hint=nearest(knob, KNOBS)))
        elif knob not in settled and value != (kept := _kept(knob, given)):
            document.faults.append(
                document.fault((*at, knob), f"this knob is not searched here and is {kept!r}", value)
            )
    return parameters


def _kept(knob: str, given: dict[str, Any]) -> Any:
    """What a knob that is not drawn is beside the given ones: its fixed value, its default, or alpha by the rank."""
    beside = {name: given[name] for name in (knob, "lora_rank") if name in given}
    return TrialConfig.model_validate(beside).model_dump()[knob]


def _with_defaults(fixed: dict[str, Any]) -> dict[str, Any]:
    """Values of all knobs; only for looking up what others depend on, as alpha follows a rank not drawn yet."""
    return {name: fixed.get(name, info.default) for name, info in KNOBS.items()}


def _mapping(values: dict[str, Any], section: str) -> dict[str, Any]:
    found = values.get(section)
    return found if isinstance(found, dict) else {}


def _names(entry: str) -> tuple[str, ...]:
    """The knobs of an entry of the space."""
    return tuple(name.strip() for name in entry.split("+"))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _size(value: Any) -> tuple[bool, Any]:
    """Numbers by their value; what has no order keeps its place."""
    return (True, value) if _is_number(value) else (False, 0)


def _sentence(message: str) -> str:
    """Pydantic's message as the rest of a line."""
    rule = message.removeprefix("Value error, ")
    return rule[0].lower() + rule[1:]
