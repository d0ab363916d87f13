"""What a report says, without markup: the parts that its page and its Markdown are made of."""

from __future__ import annotations

from dataclasses import dataclass

from results.diagnosis.finding import Finding
from results.reporting.charts import Figure
from results.reporting.leaderboard_rows import Board


@dataclass(frozen=True)
class Tile:
    """A figure of the first screen, with what to hold it against."""

    label: str
    value: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Proof:
    """The best trial against a baseline: its level, the difference with its 95% interval, and what that proves."""

    baseline: str
    level: float
    mean: float
    low: float
    high: float
    p: str
    word: str  # better, worse, not told apart


@dataclass(frozen=True)
class Step:
    """What to do next, and the command for it."""

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
    """Everything that a report says, in the order in which it says it."""

    study: str
    made: str
    state: str
    context: tuple[str, ...]
    headline: str
    tone: str  # good, open, bad
    lead: str
    learned: str  # of naming labels, and of ranking, in a sentence; empty where the former is not known
    recipe: tuple[tuple[str, str], ...]  # the searched knobs of the best trial
    tiles: tuple[Tile, ...]
    proofs: tuple[Proof, ...]
    proven: tuple[str, ...]  # what is proven besides, in sentences
    steps: tuple[Step, ...]
    sealed: bool  # nobody has read the test
    readings: tuple[Reading, ...]
    seal_command: str
    board: Board
    lesson: str  # what teaching the base to name labels took, in a sentence, where it was taught
    failures: tuple[tuple[str, str], ...]
    figures: dict[str, list[Figure]]  # of a section
    findings: tuple[Finding, ...]
    facts: tuple[tuple[str, str], ...]
    commands: tuple[Step, ...]
    files: tuple[tuple[str, str], ...]
    trouble: tuple[str, ...]  # what could not be made, and why
