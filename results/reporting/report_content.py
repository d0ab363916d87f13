"""The content of a report without markup, for its page and its Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from results.diagnosis.finding import Finding
from results.reporting.chart_data import Figure
from results.reporting.report_leaderboard import Board
from results.reporting.segment_table import SegmentTable

TIED = "may be as good"  # the label of the key figure that says which trials the best one is not proven better than


@dataclass(frozen=True)
class Tile:
    """A key figure of the first screen, with figures to compare it with."""

    label: str
    value: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Proof:
    """The best trial against a baseline: its level, the difference with its 95% interval, and the result."""

    baseline: str
    level: float
    mean: float
    low: float
    high: float
    p: str
    word: str  # better, worse, not told apart


@dataclass(frozen=True)
class Step:
    """A next step and its command."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Reading:
    """One reading of the sealed test."""

    time: str
    trial: str
    unseal: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # the trial, the baselines and chance: name, figures, difference to the trial
    record: str


@dataclass(frozen=True)
class Content:
    """All content of a report, in order."""

    study: str
    made: str
    state: str
    context: tuple[str, ...]
    headline: str
    tone: str  # good, open, bad
    lead: str
    learned: str  # what was learned of naming labels and of ranking, in a sentence; empty if the naming is unknown
    recipe: tuple[tuple[str, str], ...]  # the searched knobs of the best trial
    tiles: tuple[Tile, ...]
    proofs: tuple[Proof, ...]
    proven: tuple[str, ...]  # what else is proven, in sentences
    steps: tuple[Step, ...]
    sealed: bool  # whether the test was never read
    readings: tuple[Reading, ...]
    seal_command: str
    board: Board
    lesson: str  # what teaching the base to name labels took, in a sentence; empty if it was not taught
    failures: tuple[tuple[str, str], ...]
    segments: SegmentTable
    figures: dict[str, list[Figure]]  # by section
    findings: tuple[Finding, ...]
    facts: tuple[tuple[str, str], ...]
    commands: tuple[Step, ...]
    files: tuple[tuple[str, str], ...]
    trouble: tuple[str, ...]  # parts that could not be made, and why
