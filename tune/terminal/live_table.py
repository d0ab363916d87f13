"""What the search is doing → one live table in a terminal, or a plain line an event elsewhere."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from reranker.report_figures import best_report, on_all_lists, scored_share
from reranker.training.training_status import TrainingStatus, clock
from results.study.stored_trial import TrialStatus
from results.study.trial_origin import DRAWN, Origin
from tune.execution.trial_messages import Assignment, TuneResult
from tune.study_file.study import Study
from tune.study_file.trial_clock import WHOLE

_COLOURS = {
    TrialStatus.RUNNING: "cyan",
    TrialStatus.COMPLETED: "green",
    TrialStatus.PRUNED: "yellow",
    TrialStatus.FAILED: "red",
    TrialStatus.CANCELLED: "dim",
}


@dataclass
class _Row:
    knobs: str
    epochs: int
    origin: str = ""
    started: float = field(default_factory=lambda: time.monotonic())
    ended: float | None = None
    status: TrialStatus = TrialStatus.RUNNING
    figures: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    cause: str = ""
    training_since: float | None = (
        None  # of its first step; what comes before is waited for once a model, not once a trial
    )
    trained_at_report: float = 0.0
    known: float = 0  # epochs that an earlier launch has trained
    doing: str = ""
    left: float | None = None  # seconds of training ahead, by the workers
    said: float = field(default_factory=lambda: time.monotonic())  # when there was a line of it last

    @property
    def elapsed(self) -> float:
        return (self.ended or time.monotonic()) - self.started

    @property
    def trained(self) -> float:
        """Seconds since training began, scoring between its steps included."""
        return (self.ended or time.monotonic()) - (self.training_since or self.started)

    def remaining(self) -> float | None:
        """Seconds left if the epochs to come take as long as those that passed; before the first report by the steps."""
        done = self.figures.get("epoch", 0) - self.known
        if self.status is not TrialStatus.RUNNING:
            return None
        if done <= 0:
            return self.left
        total = self.trained_at_report * (self.epochs - self.known) / float(done)
        return max(0.0, total - self.trained)


class Progress:
    """The table of trials. Everything it is told comes from the search's own process.

    Args:
        done: trials that earlier launches have ended.
        best: (number, value) of the best of them.
        expected_s: seconds that the whole search takes, if that was measured.
        summary_s: seconds between two summaries where there is no live table.
        pulse_s: seconds between two lines of what a trial is doing there.
        quiet: say nothing.
    """

    def __init__(
        self,
        study: Study,
        console: Console,
        *,
        done: int = 0,
        best: tuple[int, float] | None = None,
        expected_s: float | None = None,
        summary_s: float = 600,
        pulse_s: float = 60,
        quiet: bool = False,
    ) -> None:
        self._trials, self._metric, self._console = study.settings.trials, study.metric, console
        self._fidelity, self._marks = study.clock, study.rungs
        self._reports_per_epoch = study.reports_per_epoch
        self._done, self._best, self._quiet = done, best, quiet
        self._expected_s = expected_s
        self._summary_s, self._pulse_s = summary_s, pulse_s
        self._is_live = console.is_terminal and not quiet
        self._rows: dict[int, _Row] = {}
        self._running: set[int] = set()
        self._started = self._summarised = time.monotonic()
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._is_live:
            self._live.stop()
            self._console.print(self._table())

    def say(self, line: str) -> None:
        """Above the live table, or as a line of its own."""
        if not self._quiet:
            self._console.print(f"[{_clock(time.monotonic() - self._started)}] {line}", markup=False, highlight=False)

    def tick(self) -> None:
        """Where there is no live table, what trials have been doing for long, and a summary now and then."""
        now = time.monotonic()
        for number in self._running:
            self._tell_doing(number)
        if not self._is_live and now - self._summarised > self._summary_s:
            self._summarised = now
            self.say(self._summary())

    def started(self, assignment: Assignment, knobs: list[str], origin: Origin = DRAWN) -> None:
        """A trial begins."""
        number, shown = assignment.number, assignment.knobs_text(knobs)
        self._rows[number] = _Row(shown, assignment.config.epochs, str(origin))
        self._running.add(number)
        self._say(f"trial {number}{'' if origin == DRAWN else f' ({origin})'} started: {shown}")

    def reported(self, number: int, figures: TuneResult) -> None:
        """A trial has reported."""
        row = self._rows[number]
        row.figures, row.trained_at_report = figures, row.trained
        row.best = best_report(filter(None, [row.best, figures]), self._metric) or {}
        row.doing, row.said = "", time.monotonic()
        if figures.get("replayed"):
            row.known, row.started, row.training_since = figures["epoch"], time.monotonic(), None
        self._say(
            f"trial {number} epoch {figures['epoch']:g}/{row.epochs}{' (kept)' if figures.get('replayed') else ''}: "
            f"loss {figures['train_loss']:.3f}, "
            f"Recall@1 {figures['recall_at_1']:.3f}, NDCG@10 {figures['ndcg_at_10']:.3f}, {row.elapsed:.0f} s"
        )

    def training_status(self, number: int, training_status: TrainingStatus) -> None:
        """What a trial is doing between two reports."""
        row = self._rows[number]
        row.doing, row.left = training_status.text(row.epochs), training_status.seconds_left
        if training_status.steps and row.training_since is None:
            row.training_since = time.monotonic()
        self._tell_doing(number)

    def ended(self, number: int, status: TrialStatus, cause: str = "") -> None:
        """A trial has ended."""
        if (row := self._rows.get(number)) is not None:  # none of a trial of an earlier launch that did not go on
            row.status, row.ended, row.cause, row.doing = status, time.monotonic(), cause, ""
            self._running.discard(number)
        self._say(f"trial {number} {status.value}" + (f": {cause}" if cause else ""))

    def _tell_doing(self, number: int) -> None:
        row, now = self._rows[number], time.monotonic()
        if row.doing and now - row.said > self._pulse_s:
            row.said = now
            self._say(f"trial {number} {row.doing}")

    def _say(self, line: str) -> None:
        if not self._is_live:
            self.say(line)

    def _summary(self) -> str:
        done = sum(row.status is not TrialStatus.RUNNING for row in self._rows.values())
        total, elapsed = max(self._trials, self._done + len(self._rows)), time.monotonic() - self._started
        ahead = total - self._done - done
        rest = self._seconds_left(ahead) if ahead else None
        left = "" if rest is None else f", about {_clock(rest)} left"
        figures = {number: row.best for number, row in self._rows.items() if row.best}
        if self._best:
            figures[self._best[0]] = {self._metric: self._best[1]}
        best = best_report(figures.values(), self._metric)
        leader = ""
        if best is not None:
            number = next(number for number, row in figures.items() if row is best)
            part = "" if on_all_lists(best) else f", on {scored_share(best):.0%} of the lists"
            leader = f", best {self._metric} {best[self._metric]:.3f} (trial {number}{part})"
        return f"{self._done + done} of {total} trials done, {_clock(elapsed)} elapsed{left}{leader}"

    def _seconds_left(self, ahead: int) -> float | None:
        """Of the trials that run and those to come, `ahead` in all; None if nothing is known.

        Trials take as long as those that have ended, from their first step on: a base is taught labels and scored
        untrained once, before the first of them.
        """
        running = [row for row in self._rows.values() if row.status is TrialStatus.RUNNING]
        ended = [row.trained for row in self._rows.values() if row.status is not TrialStatus.RUNNING]
        if not ended:
            began = min((row.training_since for row in running if row.training_since), default=time.monotonic())
            return None if self._expected_s is None else max(0.0, self._expected_s - (time.monotonic() - began))
        usual = sum(ended) / len(ended)
        known = [row.remaining() for row in running]
        left = [
            max(0.0, usual - row.trained) if seconds is None else seconds
            for seconds, row in zip(known, running, strict=True)
        ]
        return (sum(left) + usual * max(0, ahead - len(running))) / max(1, len(running))

    def _render(self) -> Group:
        return Group(self._table(), Text(self._summary(), style="bold"))

    def _next_rung(self, row: _Row) -> str:
        """Where the trial is compared next, as an epoch of its own; "last" beyond the last rung."""
        if row.status is not TrialStatus.RUNNING:
            return ""
        at = row.figures.get("epoch", 0)
        per_epoch = self._reports_per_epoch
        epochs = [mark if self._fidelity == "epoch" else mark * row.epochs / WHOLE for mark in self._marks]
        marks = [math.ceil(epoch * per_epoch - 1e-6) / per_epoch for epoch in epochs]
        return next((f"{mark:g}" for mark in marks if at < mark < row.epochs), "-")

    def _table(self) -> Table:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("trial", "state", "epoch", "rung", "loss", "Recall@1", "NDCG@10", "elapsed", "remaining"):
            table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
        table.add_column("knobs", overflow="ellipsis", no_wrap=True)
        for number, row in sorted(self._rows.items()):
            table.add_row(
                str(number),
                Text(row.status.value, style=_COLOURS[row.status]),
                f"{row.figures.get('epoch', 0):g}/{row.epochs}",
                self._next_rung(row),
                _figure(row.figures.get("train_loss")),
                _figure(row.figures.get("recall_at_1")),
                _figure(row.figures.get("ndcg_at_10")),
                _clock(row.elapsed),
                _clock(row.remaining()),
                " · ".join(
                    filter(None, [row.doing, row.cause or (f"{row.origin}: " if row.origin else "") + row.knobs])
                ),
            )
        return table


def _figure(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else clock(seconds)
