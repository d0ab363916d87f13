"""What goes between Tune's loop and a trial's slot: assignments one way, results the other. Tune carries both as
dicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from reranker.config import TrialConfig
from reranker.training.training_status import TrainingStatus
from results.study.stored_trial import TrialStatus
from tune.study_file.trial_clock import progress

TuneConfig = dict[str, Any]  # as Tune hands it from searcher to scheduler, trainable and callbacks
TuneResult = dict[str, Any]  # as Tune hands it from trainable to searcher, scheduler and callbacks


@dataclass(frozen=True)
class Assignment:
    """A trial as Tune's slots, searcher and scheduler are given it.

    Attributes:
        number: the trial's, in the study's journal.
        to_the_end: no scheduler may stop it.
        reports: (epoch, value of the study's metric) that an earlier launch has heard of it, by epoch.
    """

    number: int
    config: TrialConfig
    to_the_end: bool = False
    reports: tuple[tuple[float, float], ...] = ()

    def __str__(self) -> str:
        return f"trial {self.number}"  # stands in names that Tune makes of a configuration

    def knobs_text(self, knobs: Sequence[str]) -> str:
        """The values of these knobs, in a line."""
        values = self.config.model_dump(mode="json", include=set(knobs))
        return ", ".join(f"{knob} {_short(values[knob])}" for knob in knobs)

    @property
    def as_tune_config(self) -> TuneConfig:
        """In the form that Tune carries."""
        return {"assignment": self}

    @staticmethod
    def of(tune_config: TuneConfig) -> Assignment:
        """Back from the form that Tune carries."""
        assignment = tune_config["assignment"]
        assert isinstance(assignment, Assignment)
        return assignment


@dataclass(frozen=True)
class Ending:
    """How a trial ended: its last result.

    Attributes:
        cause: of a failure, in one sentence; `ours` where it is not the user's to mend.
        machine: what of the machine has failed; then the trial is not ended by it, and goes on another time.
    """

    status: TrialStatus
    cause: str = ""
    ours: bool = False
    machine: str = ""

    @property
    def as_result(self) -> TuneResult:
        """As the last result that Tune is given."""
        return {"done": True, "ended": self.status.value, **{name: getattr(self, name) for name in _OF_AN_ENDING}}

    @staticmethod
    def of(result: TuneResult) -> Ending:
        """Of a trial's last result; one that says nothing of an end was stopped by the scheduler."""
        details = {name: result[name] for name in _OF_AN_ENDING if name in result}
        return Ending(TrialStatus(result.get("ended", TrialStatus.PRUNED)), **details)


_OF_AN_ENDING = [field.name for field in fields(Ending) if field.name != "status"]


def report_result(figures: dict[str, float], epochs: int, *, replayed: bool) -> TuneResult:
    """A report's figures; with the last of `epochs` the trial has ended.

    Args:
        replayed: whether an earlier launch has trained it.
    """
    ending = Ending(TrialStatus.COMPLETED).as_result if figures["epoch"] >= epochs else {}
    return {**figures, "progress": progress(figures["epoch"], epochs), "replayed": replayed, **ending}


def _short(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, float) else str(value)


def status_result(training_status: TrainingStatus) -> TuneResult:
    """What the workers are doing between two reports; it has no figures."""
    return {"training_status": training_status}
