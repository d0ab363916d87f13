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

from results.study_folder import TrialStatus

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
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    status: TrialStatus = TrialStatus.RUNNING
    figures: dict[str, Any] = field(default_factory=dict)
    cause: str = ""
    elapsed_at_report: float = 0.0

    @property
    def elapsed(self) -> float:
        return (self.ended or time.monotonic()) - self.started

    def remaining(self) -> float | None:
        """Seconds left if the epochs to come take as long as those that passed."""
        done = self.figures.get("epoch")
        if self.status is not TrialStatus.RUNNING or not done:
            return None
        total = self.elapsed_at_report * self.epochs / float(done)
        return max(0.0, total - self.elapsed)


class Progress:
    """The table of trials. Everything it is told comes from the search's own process."""

    def __init__(self, trials: int, metric: str, console: Console) -> None:
        self._trials, self._metric, self._console = trials, metric, console
        self._rows: dict[int, _Row] = {}
        self._started = time.monotonic()
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
            self._console.print(self._table())

    def started(self, number: int, values: dict[str, Any], knobs: list[str]) -> None:
        shown = ", ".join(f"{knob} {_short(values[knob])}" for knob in knobs)
        self._rows[number] = _Row(shown, values["epochs"])
        self._say(f"trial {number} started: {shown}")

    def reported(self, number: int, figures: dict[str, Any]) -> None:
        row = self._rows[number]
        row.figures, row.elapsed_at_report = figures, row.elapsed
        self._say(
            f"trial {number} epoch {figures['epoch']}/{row.epochs}: loss {figures['train_loss']:.3f}, "
            f"Recall@1 {figures['recall_at_1']:.3f}, NDCG@10 {figures['ndcg_at_10']:.3f}, {row.elapsed:.0f} s"
        )

    def ended(self, number: int, status: TrialStatus, cause: str = "") -> None:
        row = self._rows[number]
        row.status, row.ended, row.cause = status, time.monotonic(), cause
        self._say(f"trial {number} {status.value}" + (f": {cause}" if cause else ""))

    def _say(self, line: str) -> None:
        if not self._console.is_terminal:
            self._console.print(f"[{_clock(time.monotonic() - self._started)}] {line}", markup=False, highlight=False)

    def _render(self) -> Group:
        done = sum(row.status is not TrialStatus.RUNNING for row in self._rows.values())
        elapsed = time.monotonic() - self._started
        left = f", about {_clock(elapsed / done * (self._trials - done))} left" if done else ""
        head = Text(f"{done} of {self._trials} trials done, {_clock(elapsed)} elapsed{left}", style="bold")
        return Group(self._table(), head)

    def _table(self) -> Table:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("trial", "state", "epoch", "loss", "Recall@1", "NDCG@10", "elapsed", "remaining"):
            table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
        table.add_column("knobs", overflow="ellipsis", no_wrap=True)
        for number, row in sorted(self._rows.items()):
            table.add_row(
                str(number),
                Text(row.status.value, style=_COLOURS[row.status]),
                f"{row.figures.get('epoch', 0)}/{row.epochs}",
                _figure(row.figures.get("train_loss")),
                _figure(row.figures.get("recall_at_1")),
                _figure(row.figures.get("ndcg_at_10")),
                _clock(row.elapsed),
                _clock(row.remaining()),
                row.cause or row.knobs,
            )
        return table


def _figure(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def _short(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, float) else str(value)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
