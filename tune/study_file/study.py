"""A checked study: its settings, and the space that configurations are drawn from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import optuna
from pydantic import ValidationError

from reranker.config import Baseline, TrialConfig
from reranker.data.baselines.baseline_plan import AUTOMATIC
from reranker.data_config import DataConfig, without_later_fields
from reranker.errors import InputError
from reranker.report_figures import epoch_of
from reranker.storage.yaml_lines import Document, dump
from tune.study_file.dimensions import Dimension, names_of, reach, size_of, with_defaults
from tune.study_file.distributions import Parameters
from tune.study_file.settings import DURATION, Resources, StudySettings, Tracker
from tune.study_file.start_points import read_start_point
from tune.study_file.trial_clock import WHOLE

DECAYING = {"linear", "cosine"}


@dataclass(frozen=True)
class Study:
    """A checked study. `dimensions` stand in an order in which each finds what it needs already drawn."""

    settings: StudySettings
    data: DataConfig
    resources: Resources
    fixed: dict[str, Any]
    dimensions: tuple[Dimension, ...]
    source: dict[str, Any]  # the file's values, overrides included
    start_points: tuple[Parameters, ...]  # what a point leaves out is drawn
    compiles: bool | None = None  # what `compile_layers: auto` is, once that is decided

    @staticmethod
    def load(source: Path | str | Mapping[str, Any], overrides: Iterable[str] = ()) -> Study:
        """A study from a study file, or from the same content as a mapping.

        Args:
            source: a path, relative ones from the current folder, or a mapping with the file's sections.
            overrides: `KNOB=VALUE` fixes a knob; `section.field=VALUE` sets any field.

        Raises:
            InputError: with every fault of the study and of the overrides.
        """
        from reranker.modeling.checkpoints.model_names import check_name
        from tune.study_file.loading import load

        return load(Path(source) if isinstance(source, str) else source, overrides, check_name)

    @property
    def name(self) -> str:
        """As the study's folder and MLflow experiment are called."""
        return self.settings.name

    @property
    def metric(self) -> str:
        """What trials are ranked by."""
        return self.settings.metric

    @property
    def mode(self) -> Literal["min", "max"]:
        """Whether less or more of the metric is better."""
        return "min" if self.metric.endswith("_loss") else "max"

    @property
    def time_budget_s(self) -> float | None:
        """Seconds after which the search ends; None: no limit."""
        if self.settings.time_budget is None:
            return None
        match = DURATION.fullmatch(self.settings.time_budget)
        assert match is not None
        hours, minutes, seconds = (int(group or 0) for group in match.groups())
        return float(hours * 3600 + minutes * 60 + seconds)

    @property
    def knobs(self) -> list[str]:
        """The knobs that are searched, in the order of the file."""
        return [knob for entry in self.source["space"] for knob in names_of(entry)]

    @property
    def baselines(self) -> tuple[Baseline, ...]:
        """Those that the study names, `auto` spelled out."""
        spelled = (AUTOMATIC if name == "auto" else (name,) for name in self.settings.baselines)
        return tuple(dict.fromkeys(name for names in spelled for name in names))

    @property
    def trackers(self) -> tuple[Tracker, ...]:
        """Those that the study names, each once, behind MLflow, which is always there."""
        return tuple(dict.fromkeys(("mlflow", *self.settings.trackers)))

    @property
    def max_epochs(self) -> int:
        """Of the longest trial that can be drawn."""
        return int(max(reach("epochs", self.fixed, self.dimensions)))

    @property
    def reports_per_epoch(self) -> int:
        """1 as long as `auto` is not decided, see `with_reports`."""
        number = self.settings.reports_per_epoch
        return 1 if number == "auto" else number

    def with_reports(self, per_epoch: int) -> Study:
        """The study with so many reports an epoch; what it was loaded from stays."""
        return replace(self, settings=self.settings.model_copy(update={"reports_per_epoch": per_epoch}))

    def with_compiling(self, pays: bool | None) -> Study:
        """The study with `compile_layers: auto` decided; None leaves it open, which is without."""
        return replace(self, compiles=pays)

    @property
    def grace(self) -> float:
        """The epoch of the first rung."""
        ninth = max(1, self.max_epochs * self.reports_per_epoch // 9)
        return self.settings.asha.grace or epoch_of(ninth, self.reports_per_epoch)

    @property
    def rungs(self) -> list[float]:
        """Where ASHA compares trials, on the study's clock: epochs, or percentages of a trial's own epochs."""
        grace, reduction = self.grace, self.settings.asha.reduction
        count = math.ceil(math.log(self.max_epochs / grace, reduction) - 1e-9) if self.max_epochs > grace else 0
        if self.clock == "epoch":
            return [grace * reduction**k for k in range(count)]
        return [WHOLE / reduction**k for k in range(count, 0, -1)]

    @property
    def clock(self) -> Literal["epoch", "progress"]:
        """What trials are compared on: a rate that decays towards a trial's own end makes its epochs its own too."""
        return "progress" if DECAYING & set(reach("schedule", self.fixed, self.dimensions)) else "epoch"

    @property
    def models(self) -> list[str]:
        """All that can be drawn."""
        return list(reach("model", self.fixed, self.dimensions))

    @property
    def fingerprint(self) -> str:
        """Equal for studies whose trials can be compared and share a sampler: same data, metric, fixed knobs, space."""
        data = without_later_fields(self.data.model_dump(mode="json"))
        compared = [self.metric, data, self.fixed, self.source["space"]]
        return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()[:16]

    def draw(self, trial: optuna.Trial) -> TrialConfig:
        """The searched knobs from the trial, the others fixed or default."""
        drawn = with_defaults(self.fixed)
        for dimension in self.dimensions:
            if dimension.applies(drawn):
                drawn |= dimension.assign(dimension.distribution.sample(trial, dimension.name, drawn))
        return self._resolve(drawn)

    def parameters(self, point: Mapping[str, Any], source: str) -> Parameters:
        """A configuration as Optuna's parameters; what it leaves out is not among them.

        Args:
            source: what a fault will cite.

        Raises:
            InputError: with a fault for each value that is not in the space.
        """
        document = Document(self.source, {(): (source, None)})
        parameters = read_start_point(document, (), point, self.fixed, list(self.dimensions))
        if document.faults:
            raise InputError(document.faults)
        return parameters

    def grid(self) -> list[Parameters]:
        """Every configuration of a space of lists, as Optuna's parameters, the last knob of the file varying
        fastest."""
        points: list[tuple[Parameters, dict[str, Any]]] = [({}, with_defaults(self.fixed))]
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
        """The configuration of the fixed knobs, which all trials have in common, and of defaults.

        Where the defaults of searched knobs don't go with the fixed ones, the searched ones are at their lowest ends.
        """
        try:
            return TrialConfig.model_validate(self.fixed)
        except ValidationError:
            return self.extremes()[0]

    def extremes(self) -> list[TrialConfig]:
        """For each model, the configuration of all lowest and of all highest ends (of all first and last choices).

        Raises:
            ValidationError: one breaks a rule among knobs; `preflight.check_agreement` refuses such a study.
        """
        corners = [self._corner(model, end) for model in self.models for end in (0, -1)]
        return [self._resolve(drawn) for drawn in corners if drawn is not None]

    def _corner(self, model: str, end: Literal[0, -1]) -> dict[str, Any] | None:
        """The lowest or the highest ends that are drawn with a model; None where it is not drawn with these."""
        drawn = with_defaults(self.fixed)
        for dimension in self.dimensions:
            if dimension.applies(drawn):
                ends = map(dimension.assign, sorted(dimension.distribution.ends(drawn), key=size_of))
                with_model = [values for values in ends if values.get("model", model) == model]
                if not with_model:
                    return None
                drawn |= with_model[end]
        return drawn if drawn["model"] == model else None

    def dump(self) -> str:
        """The study as YAML that loads again to an equal study."""
        return dump(self.source)

    def _resolve(self, drawn: dict[str, Any]) -> TrialConfig:
        given = {knob for dimension in self.dimensions if dimension.applies(drawn) for knob in dimension.knobs}
        config = TrialConfig.model_validate(
            {knob: drawn[knob] for knob in drawn if knob in given or knob in self.fixed}
        )
        if self.compiles is None or config.compile_layers != "auto":
            return config
        return config.model_copy(update={"compile_layers": self.compiles and config.may_compile})
