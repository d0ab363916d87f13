"""What the trials of a search are doing → gauges that Ray exports to Prometheus (`deploy/observability/`)."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from itertools import count
from typing import Any

from ray.util.metrics import Gauge

from reranker.report_figures import best_report
from reranker.training.training_status import TrainingStatus
from results.study.stored_trial import TrialStatus
from tune.execution.trial_messages import Assignment
from tune.study_file.study import Study

_FIGURES = ("recall_at_1", "ndcg_at_10", "train_loss", "val_loss", "padding")
_WAITING = "waiting"  # the state of those that are not drawn yet
_OF_A_TRIAL = {
    "epoch": "epochs that are trained and reported",
    "epochs": "epochs that it is to train",
    "loss": "training loss, mean of the last 20 steps",
    "tokens_per_second": "of its first worker, over the last 20 steps",
    "seconds_left": "until all its epochs are trained, scoring not included",
    "seconds_since_report": "since its last report, or since it began",
    "peak_memory_bytes": "of its largest worker, on the device",
}
_AGAIN_S = 5.0  # Ray forgets a gauge that nobody has set for some 20 s
_OWN_LABELS = (
    250  # trials: a gauge that had 2,000 label sets shows none any more (OpenTelemetry, Ray 2.60), and a trial has five
)
_ENDED_SHOWN = 50  # trials
_WHILE_RUNNING = ("loss", "tokens_per_second", "seconds_left", "seconds_since_report")


class SearchGauges:
    """The gauges of one search: `ray_reranker_…` where Prometheus reads them. Told of what happens as the live table is.

    What is set once is set again every few seconds, so that curves have no gaps; of the trials that have ended, the last
    ones'. The first 250 trials have labels of their own; later ones share `later-1` and so on, each once it is free.

    Args:
        done: trials that earlier launches have ended.
        best: (number, value) of the best of them.
    """

    def __init__(self, study: Study, done: int = 0, best: tuple[int, float] | None = None) -> None:
        self._metric, self._trials, self._done = study.metric, study.settings.trials, done
        self._states: dict[int, str] = {}
        self._heard: dict[int, float] = {}  # when a running trial last reported
        self._labels: dict[int, str] = {}  # of the trials that are shown
        self._labelled = 0  # trials that were given one of their own
        self._ended: dict[int, None] = {}  # trials that are still shown, in the order in which they ended
        self._best: dict[str, Any] | None = None if best is None else {study.metric: best[1]}
        self._values: dict[tuple[Gauge, tuple[tuple[str, str], ...]], float] = {}
        self._set_again = time.monotonic()
        tags = {"study": study.name}
        self._state = _gauge("trials", "trials of this search in each state", ("state",), tags)
        self._best_value = _gauge("best", "the best value so far of the metric that is searched by", ("metric",), tags)
        self._figure = _gauge("trial_figure", "of a trial's last report", ("trial", "metric"), tags)
        self._trial = {name: _gauge(f"trial_{name}", text, ("trial",), tags) for name, text in _OF_A_TRIAL.items()}
        self._count()
        if best is not None:
            self._set(self._best_value, best[1], metric=self._metric)

    def started(self, assignment: Assignment) -> None:
        """A trial begins."""
        self._states[assignment.number], self._heard[assignment.number] = "running", time.monotonic()
        self._ended.pop(assignment.number, None)
        self._tell(assignment.number, epoch=0, epochs=assignment.config.epochs)
        self._count()

    def reported(self, number: int, figures: Mapping[str, Any]) -> None:
        """A trial has reported."""
        self._heard[number] = time.monotonic()
        for name in _FIGURES:
            if name in figures:
                self._set(self._figure, figures[name], trial=self._label(number), metric=name)
        self._tell(number, epoch=figures["epoch"], seconds_since_report=0)
        if "peak_memory_mb" in figures:
            self._tell(number, peak_memory_bytes=figures["peak_memory_mb"] * 2**20)
        self._best = best_report([*filter(None, [self._best]), dict(figures)], self._metric)
        if self._best is not None:
            self._set(self._best_value, self._best[self._metric], metric=self._metric)

    def training_status(self, number: int, status: TrainingStatus) -> None:
        """What a trial is doing between two reports."""
        gauges = {name: getattr(status, name) for name in ("loss", "tokens_per_second", "seconds_left")}
        self._tell(number, **{name: value for name, value in gauges.items() if value is not None})

    def ended(self, number: int, status: TrialStatus) -> None:
        """A trial has ended: what it was doing is nothing now."""
        self._states[number] = status.value
        if self._heard.pop(number, None) is not None:
            for name in _WHILE_RUNNING:
                self._forget(self._trial[name], trial=self._label(number))
            self._ended[number] = None
            if len(self._ended) > _ENDED_SHOWN:
                self._hide(next(iter(self._ended)))
        self._count()

    def tick(self) -> None:
        """Time has passed."""
        now = time.monotonic()
        if now - self._set_again < _AGAIN_S:
            return
        self._set_again = now
        for number, heard in self._heard.items():
            self._tell(number, seconds_since_report=now - heard)
        for (gauge, tags), value in self._values.items():
            gauge.set(value, dict(tags))

    def _set(self, gauge: Gauge, value: float, **tags: str) -> None:
        self._values[gauge, tuple(sorted(tags.items()))] = value
        gauge.set(value, tags)

    def _forget(self, gauge: Gauge, **tags: str) -> None:
        if self._values.pop((gauge, tuple(sorted(tags.items()))), None) is not None:
            gauge.set(math.nan, tags)  # which Ray leaves out

    def _tell(self, number: int, **values: float) -> None:
        for name, value in values.items():
            self._set(self._trial[name], value, trial=self._label(number))

    def _label(self, number: int) -> str:
        """What the trial is called: its number, or, where no more such labels can be had, one that others had before."""
        if number not in self._labels:
            if self._labelled < _OWN_LABELS:
                self._labelled += 1
                self._labels[number] = str(number)
            else:
                taken = set(self._labels.values())
                self._labels[number] = next(label for label in map("later-{}".format, count(1)) if label not in taken)
        return self._labels[number]

    def _hide(self, number: int) -> None:
        """No longer show a trial that has ended."""
        del self._ended[number]
        label = self._labels.pop(number)
        for gauge, tags in [*self._values]:
            if ("trial", label) in tags:
                self._forget(gauge, **dict(tags))

    def _count(self) -> None:
        states = Counter(self._states.values())
        ended = self._done + len(self._states)
        for state in TrialStatus:
            self._set(self._state, states[state.value], state=state.value)
        self._set(self._state, max(0, self._trials - ended), state=_WAITING)


def _gauge(name: str, text: str, tag_keys: tuple[str, ...], tags: dict[str, str]) -> Gauge:
    gauge = Gauge(f"reranker_{name}", description=text, tag_keys=("study", *tag_keys))
    gauge.set_default_tags(tags)
    return gauge
