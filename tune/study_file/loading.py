"""A study file → a `Study`, or every fault of it in one error: file, line, field, rule, value and the nearest valid
name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from reranker.config import model_of_method
from reranker.data.baselines.baseline_plan import NO_MODEL
from reranker.data_config import ENCODER, POINTWISE, DataConfig, absolute_paths
from reranker.errors import Fault, InputError, nearest
from reranker.storage.pydantic_faults import meant_by, names_at, rule_of
from reranker.storage.yaml_lines import Document, Location, from_mapping, override, read
from tune.study_file.dimensions import KNOBS, NO_KNOB, Dimension, mapping_of, names_of, reach
from tune.study_file.distributions import FloatRange
from tune.study_file.settings import MOST_TRIALS, StudyFile, StudySettings
from tune.study_file.space import always_broken, check_ends, check_knobs, check_when, in_order, read_dimension
from tune.study_file.start_points import points_of, read_start_point
from tune.study_file.study import DECAYING, Study

_DATA = {model.model_fields["source"].default: model for model in get_args(get_args(DataConfig)[0])}


def load(
    source: Path | Mapping[str, Any],
    overrides: Iterable[str] = (),
    check_model: Callable[[str], None] = lambda model: None,
) -> Study:
    """Read and check a study.

    Args:
        source: its file, or the file's content, in which relative paths are looked up in the current folder.
        overrides: `KNOB=VALUE` fixes a knob; `section.field=VALUE` sets any field of the file.
        check_model: raises InputError for a model that does not exist.

    Raises:
        InputError: with every fault of the file and of the overrides.
    """
    document = read(source) if isinstance(source, Path) else from_mapping(source)
    _apply_overrides(document, overrides)
    _name_model_of_method(document)
    parsed = _parse_sections(document)
    fixed, space = _check_fixed(document, check_model), mapping_of(document.values, "space")
    dimensions = in_order(document, [entry for name in space if (entry := read_dimension(document, name))])
    for rule in always_broken(fixed, dimensions):
        document.faults.append(document.fault(("fixed",), rule))
    sound = []
    for dimension in dimensions:
        before = len(document.faults)
        check_when(document, dimension, fixed, check_model)
        check_ends(document, dimension, fixed, dimensions, check_model)
        sound += [dimension] if len(document.faults) == before else []
    start_points = tuple(read_start_point(document, at, point, fixed, sound) for at, point in points_of(document))
    if parsed and not document.faults:
        longest, grace = max(reach("epochs", fixed, dimensions)), parsed.study.asha.grace or 1
        grace = round(grace) if grace % 1 == 0 else grace
        if grace > longest:
            rule = f"the grace period must not be beyond the longest trial, {longest} epoch{'s' * (longest != 1)}"
            document.faults.append(document.fault(("study", "asha", "grace"), rule, grace))
        _check_fidelity(document, parsed.study, fixed, dimensions)
        if "dense" in parsed.study.baselines and parsed.data.dense_model is None:
            rule = "the baseline dense needs data.dense_model, a folder or an id of the Hub"
            document.faults.append(document.fault(("study", "baselines"), rule, hint=f"such as {ENCODER}"))
        if "pointwise" in parsed.study.baselines and parsed.data.pointwise_model is None:
            document.faults.append(document.fault(("study", "baselines"), NO_MODEL, hint=f"such as {POINTWISE}"))
    if parsed is None or document.faults:
        raise InputError(sorted(document.faults, key=lambda fault: (fault.file, fault.line or 0)))
    paths = absolute_paths(parsed.data, source.parent if isinstance(source, Path) else Path.cwd())
    study = Study(
        parsed.study,
        parsed.data.model_copy(update=paths),
        parsed.resources,
        fixed,
        dimensions,
        {
            **document.values,
            "data": {**document.values["data"], **{name: _written(path) for name, path in paths.items()}},
        },
        start_points,
    )
    if parsed.study.sampler != "grid":
        return study
    return replace(study, settings=parsed.study.model_copy(update={"trials": len(study.grid())}))


def _written(path: Path | tuple[Path, ...]) -> str | list[str]:
    """As a study file has it."""
    return str(path) if isinstance(path, Path) else [str(one) for one in path]


def _check_fidelity(
    document: Document, settings: StudySettings, fixed: dict[str, Any], dimensions: tuple[Dimension, ...]
) -> None:
    """What trials are compared on before their end must mean the same for all of them; a grid needs lists."""
    schedules = set(reach("schedule", fixed, dimensions))
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
        if separator and len(parts) == 1 and parts[0] in {*KNOBS, "method"}:
            before = len(document.faults)
            override(document, ("fixed", parts[0]), value, source)
            if len(document.faults) == before:
                fixed.add(parts[0])
        elif separator and all(parts) and len(parts) > 1 and parts[0] in StudyFile.model_fields:
            override(document, parts, value, source)
        elif not separator or not all(parts) or parts[0] in {*KNOBS, *StudyFile.model_fields}:
            document.faults.append(Fault("an override must be KNOB=VALUE or section.field=VALUE", source))
        else:
            hint = nearest(str(parts[0]), [*KNOBS, *StudyFile.model_fields])
            document.faults.append(Fault("there is no such knob or section", source, hint=hint))
    space = mapping_of(document.values, "space")
    for name in [name for name in space if fixed.issuperset(names_of(name))]:
        del space[name]
    for _, point in points_of(document):
        for knob in fixed & point.keys():
            del point[knob]


def _name_model_of_method(document: Document) -> None:
    """Replace `fixed.method` by the model that it stands for."""
    fixed, space = mapping_of(document.values, "fixed"), mapping_of(document.values, "space")
    if "method" not in fixed:
        return
    searched = {knob for name in space if isinstance(name, str) for knob in names_of(name)}
    try:
        document.values["fixed"] = model_of_method(fixed, searched)
    except ValueError as error:
        document.faults.append(document.fault(("fixed", "method"), str(error), fixed.pop("method")))


def _parse_sections(document: Document) -> StudyFile | None:
    try:
        return StudyFile.model_validate(document.values)
    except ValidationError as error:
        for item in error.errors():
            kind, at, value, hint = item["type"], item["loc"], item["input"], ""
            within: tuple[type[BaseModel], Location]
            if at[0] == "data" and len(at) > 1:  # pydantic puts the source behind it, which is no part of the place
                within, at = (_DATA[at[1]], at[2:-1]), ("data", *at[2:])
            else:
                within = (StudyFile, at[:-1])
            if kind == "extra_forbidden":
                value, hint = None, nearest(str(at[-1]), names_at(*within))
            elif kind.startswith("union_tag"):
                at, value = ("data", "source"), item.get("ctx", {}).get("tag")
                hint = nearest(str(value), _DATA)
            elif kind == "literal_error":
                hint = meant_by(item)
            rule = (
                "must name at least one knob to search" if at == ("space",) and kind == "too_short" else rule_of(item)
            )
            document.faults.append(document.fault(at, rule, None if isinstance(value, dict | list) else value, hint))
        return None


def _check_fixed(document: Document, check_model: Callable[[str], None]) -> dict[str, Any]:
    """The fixed knobs that have no fault."""
    fixed = {}
    for knob, value in mapping_of(document.values, "fixed").items():
        before = len(document.faults)
        if knob in KNOBS:
            check_knobs(document, {knob: value}, ("fixed", knob), {knob}, check_model)
        else:
            document.faults.append(document.fault(("fixed", knob), NO_KNOB, hint=nearest(knob, KNOBS)))
        if len(document.faults) == before:
            fixed[knob] = value
    return fixed
