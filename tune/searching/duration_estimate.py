"""A study and the measured speed → how often its trials report, and how long the search takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.modeling.checkpoints.model_files import shape_of
from reranker.modeling.checkpoints.model_names import TOYS
from reranker.training.report_plan import part_of
from reranker.training.speed import Speed
from reranker.training.training_status import clock
from tune.searching.cost_estimate import estimate_cost
from tune.study_file.dimensions import reach
from tune.study_file.preflight import fewest_steps
from tune.study_file.study import Study

_BETWEEN_S = 240.0  # two reports, at the least
_REFERENCE_PASS = 0.4  # of a step's time, in which softmax-DPO asks the model as it was before; demo-small, two cores
_COMPILING_S = 600.0  # of training in a search, below which it is not worth asking whether compiled layers are faster
_SCORING = 0.2  # of the training between two reports, at the most


@dataclass(frozen=True)
class EpochDuration:
    """What a study's slowest model takes, in seconds.

    Attributes:
        training: of an epoch.
        scoring: of all validation lists, at its end.
        part: of the part of them that is scored within it.
    """

    training: float
    scoring: float
    part: float

    @staticmethod
    def of(study: Study, data: RerankingData, speed: Speed) -> EpochDuration:
        """For an epoch of the fixed `examples_per_user`; where that is searched, of its default."""
        lists, each = data.validation(study.base()), speed.seconds_per_list / study.resources.workers
        examples = data.count_examples(study.base())
        second_stage = study.base().dpo_epochs / study.base().epochs
        training = examples * speed.seconds_per_example * (1 + _REFERENCE_PASS * second_stage)
        return EpochDuration(training, len(lists) * each, len(part_of(lists)) * each)

    def reports(self, most: int) -> int:
        """Reports of an epoch: a power of two, one every four minutes or less often, so that scoring stays small."""
        between = max(_BETWEEN_S, self.part / _SCORING)
        wanted = int(min(max(1.0, self.training / between), most))
        return int(2 ** (wanted.bit_length() - 1))

    def total(self, study: Study, at_once: int) -> float:
        """Of the whole search, with so many trials at the same time."""
        epoch = self.training + self.scoring + (study.reports_per_epoch - 1) * self.part
        return estimate_cost(study).expected * epoch / min(at_once, study.settings.trials)

    def training_s(self, study: Study, at_once: int) -> float:
        """The part of `total` that is training."""
        return estimate_cost(study).expected * self.training / min(at_once, study.settings.trials)

    def describe(self, study: Study, at_once: int) -> str:
        """How long an epoch and the whole search take, in lines."""
        per_epoch, total = study.reports_per_epoch, self.total(study, at_once)
        reports = "a report" if per_epoch == 1 else f"{per_epoch} reports"
        taken = f"{clock(self.training)} to train and {clock(self.scoring)} to score"
        may_teach = "listwise" in reach("scoring", study.fixed, study.dimensions)
        lesson = ", and some minutes more where a model is taught labels first" if may_teach else ""
        lines = [
            f"measured: an epoch takes about {taken}, with {reports}",
            f"the search takes about {clock(total)} at that speed{lesson}",
        ]
        budget = study.time_budget_s
        if budget is not None and total > budget:
            share = f"{budget / total:.0%}"
            lines.append(
                f"its time_budget of {clock(budget)} ends it after about {share} of that; to get further: fewer trials, "
                "epochs or evaluation_users, or a longer budget"
            )
        return "\n".join(lines)


def may_compile(study: Study, duration: EpochDuration, at_once: int) -> bool:
    """Whether the study leaves it open, nothing rules it out, and there is much to train."""
    config = slowest(study)
    is_open = config.compile_layers == "auto" and config.may_compile
    return is_open and duration.training_s(study, at_once) > _COMPILING_S


def compiling_pays(training_s: float, plain: Speed, compiled: Speed | str) -> tuple[bool, str]:
    """Whether a search trains faster with compiled layers, and a line about it.

    Args:
        training_s: of the search, without.
        compiled: the speed with them, or why it could not be measured.
    """
    if isinstance(compiled, str):
        return False, f"layers are not compiled; that could not be measured ({compiled})"
    gain = plain.seconds_per_example / compiled.seconds_per_example
    pays = training_s * (1 - 1 / gain) > compiled.first_step
    chosen = "layers are compiled" if pays else "layers are not compiled, which would not pay"
    return pays, f"{chosen}: training {gain:.2f} times as fast after {compiled.first_step:.0f} s"


def slowest(study: Study) -> TrialConfig:
    """The fixed knobs with the largest of the study's models."""

    def size(model: str) -> float:
        shape = shape_of(model)
        return math.inf if shape is None else shape.parameters

    config = study.base().model_copy(update={"model": max(study.models, key=size)})
    if study.compiles is not None and config.compile_layers == "auto":
        config = config.model_copy(update={"compile_layers": study.compiles})
    return config


def is_quick(study: Study) -> bool:
    """Whether nothing has to be measured: a toy's epoch takes seconds."""
    return set(study.models) <= set(TOYS)


def decide(study: Study, data: RerankingData, duration: EpochDuration | None) -> Study:
    """The study with its number of reports; what it says itself stands.

    Args:
        duration: None where nothing was measured; then there is a report an epoch.
    """
    if study.settings.reports_per_epoch != "auto":
        return study
    return study.with_reports(1 if duration is None else duration.reports(fewest_steps(study, data)))
