"""A study's folder, or a table of figures → `DiagnosisInputs`, which the checks read."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import numpy as np
from scipy import stats

from reranker.config import TrialConfig
from reranker.data.baselines.baseline_ranks import COLLABORATIVE
from reranker.errors import EnvironmentFault, Fault, InputError, nearest
from reranker.metrics import METRIC_NAMES, METRICS, Picks, chance
from reranker.report_figures import SCORED_SHARE, on_all_lists, scored_share
from reranker.storage.file_kinds import OTHER_MARKS, what_it_is
from results.leaderboard import LEFT_OUT, REASON
from results.statistics.comparison import Comparison, compare
from results.statistics.learning_summary import ZERO_SHOT, Naming
from results.statistics.seed_averages import replicated
from results.statistics.segments import Segments, segments
from results.statistics.training_loss import guessing_in_training
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder

_RANKED_BY = ("ndcg_at_10", *(name for name in METRIC_NAMES if name != "ndcg_at_10"), "val_loss")
_SHARES = (*METRIC_NAMES, "label_mass", "titles_found", "hit", SCORED_SHARE)
_FIGURES = (*_SHARES, "train_loss", "val_loss", "titles_asked", "seconds")
_KINDS = ("trial", "baseline", "chance")
_TEXTS = ("rank", "name", "kind", "status", "epoch", REASON)  # columns of a leaderboard that are no figures
_APPLIED = {"optimizer_steps": "applied/optimizer_steps"}
_FROM_ZERO = ("train_loss", "val_loss", "titles_asked", *_APPLIED, *_APPLIED.values())
_NUMBERS = {
    *(*_FIGURES, *_FROM_ZERO, "applied/learning_rate"),
    *(
        name
        for name, knob in TrialConfig.model_fields.items()
        if {*(get_args(knob.annotation) or (knob.annotation,))} <= {int, float, NoneType}
    ),
}
_GAINS: dict[str, Callable[[int], float]] = {
    "recall": lambda rank: 1.0,
    "ndcg": lambda rank: 1 / math.log2(rank + 1),
    "mrr": lambda rank: 1 / rank,
}
_MATTERS = 0.01  # of the metric; a larger lead may be real without being proven
_RARE = 0.025  # how often luck may lift the best of all epochs above what counts as chance


@dataclass(frozen=True)
class Range:
    """The range of a numeric knob: its ends, and whether it was on a log scale or a list of values."""

    low: float
    high: float
    log: bool = False
    listed: bool = False

    def end_at(self, value: float) -> str:
        """ "low" or "high" if the value is at that end or within a tenth of the range from it; else empty."""
        if self.listed:
            position = {self.low: 0.0, self.high: 1.0}.get(value, 0.5)
        else:
            low, high, scaled = (math.log(x) if self.log else x for x in (self.low, self.high, value))
            position = (scaled - low) / (high - low)
        return "low" if position <= 0.1 else "high" if position >= 0.9 else ""


@dataclass(frozen=True)
class DiagnosisInputs:
    """What is known of a study. A table may lack figures; checks that need them find nothing.

    Attributes:
        trials: those with a finished epoch, without replicates, best first.
        users: how many lists were scored.
        candidates: how many items a list has.
        metric: the one that makes a trial the best.
        chance: the value of guessing, by metric.
        failed: the trials that failed.
        references: the metrics of each baseline; for an untrained model, its other figures too.
        comparison: the statistical tests; None without ranks.
        picks: what the best trial ranked first.
        kept_first: the share of lists whose first place is the untrained model's.
        best_reachable: Recall@1 of a ranker that knows how the data were made.
        space: the ranges of the searched numeric knobs.
        data: the study file's section of that name.
        by_segment: the winner and the baselines on parts of the lists; None where nothing is known of them.
    """

    trials: list[StoredTrial]
    users: int
    candidates: int
    metric: str = "ndcg_at_10"
    chance: dict[str, float] = field(default_factory=dict)
    failed: list[StoredTrial] = field(default_factory=list)
    references: dict[str, dict[str, Any]] = field(default_factory=dict)
    comparison: Comparison | None = None
    picks: Picks | None = None
    kept_first: float | None = None
    best_reachable: float | None = None
    space: dict[str, Range] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    by_segment: Segments | None = None

    @staticmethod
    def of_study(
        study: StudyFolder,
        comparison: Comparison | None = None,
        trials: Sequence[StoredTrial] | None = None,
        by_segment: Segments | None = None,
    ) -> DiagnosisInputs:
        """From a study's folder. Pass `comparison`, `trials` and `by_segment` if they are known already."""
        manifest, trials = study.read_manifest(), list(study.trials()) if trials is None else trials
        metric = manifest["metric"]
        comparison = comparison or compare(study)
        searched = [trial for trial in trials if trial.reports and replicated(trial) is None]
        winner_number = comparison.winner.number if comparison else None
        ranked = sorted(_best_first(searched, metric), key=lambda trial: trial.number != winner_number)
        references = study.references()
        sections = study.read_sections()
        picks, kept_first = _picks(study, ranked[0]) if ranked else (None, None)
        return DiagnosisInputs(
            ranked,
            manifest["plan"].get("validation_users", manifest["plan"]["validation_lists"]),
            manifest["plan"]["candidates"],
            metric,
            references.pop("chance"),
            [trial for trial in trials if trial.status is TrialStatus.FAILED],
            {name: {**study.baseline(name).read_figures(), **figures} for name, figures in references.items()},
            comparison,
            picks,
            kept_first,
            manifest["best_reachable_recall_at_1"],
            {knob: knob_range for knob, entry in sections.get("space", {}).items() if (knob_range := _range(entry))},
            sections.get("data", {}),
            by_segment or _by_segment(study, comparison),
        )

    @staticmethod
    def of_table(
        rows: Sequence[dict[str, Any]], *, users: int, candidates: int, metric: str = "ndcg_at_10"
    ) -> DiagnosisInputs:
        """From a table with a row per trial, whose columns are named like a trial's figures and knobs.

        The epoch of a row is unknown, so checks that need the first epoch or a curve find nothing.
        """
        trials = []
        for number, row in enumerate(rows):
            knobs = {name: value for name, value in row.items() if name in TrialConfig.model_fields}
            figures = {name: value for name, value in row.items() if name not in knobs and name not in _TEXTS}
            trials.append(StoredTrial(number, knobs, TrialStatus.COMPLETED, "", [figures]))
        ranked = _best_first(trials, metric)
        hit = ranked[0].reports[0].get("hit", 1.0) if ranked else 1.0
        chance_levels = {name: hit * value for name, value in chance(candidates).items()}
        return DiagnosisInputs(ranked, users, candidates, metric, chance_levels)

    @property
    def ended(self) -> int:
        """How many trials there are, those that failed included; one may have failed after an epoch that is compared."""
        return len({id(trial) for trial in (*self.trials, *self.failed)})

    @property
    def winner(self) -> StoredTrial:
        """The best trial."""
        return self.trials[0]

    @property
    def best(self) -> dict[str, Any]:
        """The figures of the best epoch of the best trial."""
        figures = self.winner.best(self.metric)
        assert figures is not None
        return figures

    @property
    def scored_users(self) -> int:
        """How many lists the figures of the best epoch are on; a report within an epoch scores a part of them."""
        return max(1, round(scored_share(self.best) * self.users))

    @property
    def guessing(self) -> float:
        """The loss in nats of a model that has learned nothing: of equally likely candidates, or of counting alone."""
        return float(self.best.get("collaborative_loss", math.log(self.candidates)))

    @property
    def guess(self) -> str:
        """What `guessing` is the loss of, and its value, as a phrase."""
        level = f"{self.guessing:.2f}"
        if self.adds_counts:
            return f"the collaborative scores without the model, {level}"
        return f"guessing, ln {self.candidates} = {level}"

    def gain_in_training(self, figures: dict[str, Any]) -> float:
        """How far a report's training loss is below that of guessing on the same lists, in nats."""
        return guessing_in_training(figures, self.guessing) - float(figures["train_loss"])

    def guess_in_training(self, figures: dict[str, Any]) -> str:
        """What a report's training loss is held against, and its value, as a phrase."""
        level = guessing_in_training(figures, self.guessing)
        if abs(level - self.guessing) < 0.005:
            return self.guess
        who = "the collaborative scores without the model" if self.adds_counts else "guessing"
        return f"{who}, {level:.2f} on the lists that are trained on"

    @property
    def adds_counts(self) -> bool:
        """Whether collaborative scores are added to the best trial's answers."""
        return "collaborative_loss" in self.best

    @property
    def untrained(self) -> dict[str, Any]:
        """The figures of the best trial's model without training; empty if unknown."""
        return self.references.get(f"{ZERO_SHOT}{self.winner.values.get('model')}", {})

    @property
    def hit(self) -> float:
        """The share of lists that hold their target; 1 unless a retriever made the lists."""
        return float(self.best.get("hit", 1.0))

    @property
    def naming(self) -> Naming | None:
        """How often the best trial names the label of a title; None if unknown."""
        return self.naming_of(self.winner)

    def naming_of(self, trial: StoredTrial) -> Naming | None:
        """How often a trial names the label of a title; None if unknown."""
        untrained = self.references.get(f"{ZERO_SHOT}{trial.values.get('model')}", {})
        candidates = {"candidates": self.candidates}  # a table's rows lack them
        return Naming.of(replace(trial, values={**trial.values, **candidates}), self.metric, untrained, self.users)

    def losses(self, name: str) -> list[float]:
        """A figure of the best trial, by epoch."""
        return [epoch[name] for epoch in self.winner.whole_epochs if name in epoch]

    def error_of_chance(self, metric: str, share: float = 1.0) -> float:
        """The standard error of a metric's mean over this share of the users for a ranker that guesses."""
        _, k = METRICS[metric]
        gains = [_GAINS[metric.split("_")[0]](rank) for rank in range(1, min(k, self.candidates) + 1)]
        mean_square = self.hit * sum(gain**2 for gain in gains) / self.candidates
        return math.sqrt((mean_square - self.chance[metric] ** 2) / (share * self.users))

    def is_chance(self, figures: dict[str, Any], of: int = 1) -> bool:
        """Whether the best of `of` guessing rankers may reach this Recall@1 and NDCG@10, in 97.5 of 100 studies."""
        z = stats.norm.ppf(1 - _RARE / of)
        metrics, share = (
            [metric for metric in ("recall_at_1", "ndcg_at_10") if metric in figures],
            scored_share(figures),
        )
        return bool(metrics) and all(
            figures[metric] < self.chance[metric] + z * self.error_of_chance(metric, share) for metric in metrics
        )

    @property
    def one_answer(self) -> bool:
        """Whether the same label stands first in every list."""
        return self.picks is not None and len(self.picks.first) > 1 and bool(np.ptp(self.picks.first) == 0)

    @property
    def list_dependence(self) -> float:
        """How much the answers depend on the lists: the probability of first places, standard deviation over mean."""
        return float(self.picks.probability.std() / self.picks.probability.mean()) if self.picks else math.inf

    @property
    def at_chance(self) -> bool:
        """Whether the best epoch of all trials is at the level of guessing, or always ranks the same label first.

        With collaborative scores: whether the model is not proven to add to them, and its lead is small.
        """
        against = self.comparison.against.get(COLLABORATIVE) if self.comparison else None
        if self.adds_counts and against is not None:
            return not against.proven and against.mean < _MATTERS
        return self.one_answer or self.is_chance(self.best, of=sum(len(trial.reports) for trial in self.trials))


def _best_first(trials: list[StoredTrial], metric: str) -> list[StoredTrial]:
    sign = 1 if metric.endswith("_loss") else -1

    def place(trial: StoredTrial) -> tuple[bool, float]:
        best = trial.best(metric) or {}
        return not on_all_lists(best), sign * best.get(metric, sign * math.inf)

    return sorted(trials, key=place)


def _picks(study: StudyFolder, best: StoredTrial) -> tuple[Picks | None, float | None]:
    """What the trial ranked first, and the share of lists in which its untrained model ranked the same first."""
    trained, (untrained, _) = study.trial(best.number), study.zero_shot(best.values["model"])
    picks = trained.read_picks() if trained.has_ranks else None
    untrained_picks = untrained.read_picks() if untrained.has_ranks else None
    if picks is None or untrained_picks is None or len(picks.first) != len(untrained_picks.first):
        return picks, None
    return picks, float((picks.first == untrained_picks.first).mean())


def _by_segment(study: StudyFolder, comparison: Comparison | None) -> Segments | None:
    """None where the study keeps no facts of its lists, or they are damaged: no other finding depends on them."""
    if comparison is None:
        return None
    try:
        return segments(study, comparison=comparison)
    except EnvironmentFault:
        return None


def _range(entry: dict[str, Any]) -> Range | None:
    """The numeric range of a knob in a study file; None if it has no order or depends on other knobs."""
    if "ratio_of" in entry or "when" in entry:
        return None
    if "choice" in entry:
        values = entry["choice"]
        all_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        return Range(min(values), max(values), listed=True) if all_numbers and len(values) > 2 else None
    kind = next(kind for kind in ("int", "uniform", "log_uniform") if kind in entry)
    low, high = (float(end) for end in entry[kind])
    return Range(low, high, kind == "log_uniform" or bool(entry.get("log")))


def read_table(path: Path, *, users: int, candidates: int) -> DiagnosisInputs:
    """A CSV file with a row per run: columns of `leaderboard.csv`, `optimizer_steps`, `label_mass`, `hit`, and knobs.

    Rows of the kind `baseline` are baselines. A run without the metric counts as failed.

    Raises:
        InputError: with every fault of the file.
        EnvironmentFault: it cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            rows = [(table.line_num, row) for row in table]
            columns = list(table.fieldnames or [])
    except OSError as error:
        raise EnvironmentFault(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error):
        with path.open("rb") as content:
            hint = what_it_is(content.read(64))
        raise InputError([Fault("the file must be CSV, in UTF-8", str(path), hint=hint)]) from None
    faults = [Fault("must be at least 1", field="--users", value=users)] if users < 1 else []
    faults += [Fault("must be at least 2", field="--candidates", value=candidates)] if candidates < 2 else []
    faults += _table_faults(str(path), columns, rows, candidates)
    if faults:
        raise InputError(faults)
    told = [name for name in _RANKED_BY if any(row.get(name) for _, row in rows if _is_run(row))]
    metric = next(name for name in (*told, *_RANKED_BY) if name in columns)
    runs, failed, baselines = [], [], {}
    for line, row in rows:
        figures = {_APPLIED.get(name, name): _value(name, text) for name, text in row.items() if text}
        if row.get("status") == LEFT_OUT:
            continue
        if row.get("kind") == "baseline":
            baselines[row.get("name") or f"the one in line {line}"] = figures
        elif _is_run(row) and metric not in figures:
            failed.append(StoredTrial(line, {}, TrialStatus.FAILED, "", []))
        elif _is_run(row):
            runs.append(figures)
    inputs = DiagnosisInputs.of_table(runs, users=users, candidates=candidates, metric=metric)
    return replace(inputs, failed=failed, references=baselines)


def _is_run(row: dict[str, Any]) -> bool:
    return (row.get("kind") or "trial") == "trial"


def _table_faults(
    file: str, columns: list[str], rows: list[tuple[int, dict[str, Any]]], candidates: int
) -> list[Fault]:
    if not any(name.strip() for name in columns):
        return [Fault("the first line must hold the names of the columns", file, 1)]
    if len(columns) == 1 and (mark := next((mark for mark in OTHER_MARKS if mark in columns[0]), "")):
        rule = "the fields of a line must be separated by commas"
        return [Fault(rule, file, 1, value=columns[0], hint=f"these are by {mark!r}")]
    known_columns = {*_NUMBERS, *_TEXTS, *TrialConfig.model_fields}
    faults = [
        Fault("there is no such column", file, 1, name, hint=nearest(name, known_columns))
        for name in columns
        if name not in known_columns
    ]
    faults += [
        Fault("a column must occur once", file, 1, name) for name in dict.fromkeys(columns) if columns.count(name) > 1
    ]
    if not set(_RANKED_BY) & set(columns):
        faults.append(Fault(f"one of these columns must be there: {', '.join(_RANKED_BY)}", file, 1))
    if not any(_is_run(row) for _, row in rows):
        faults.append(Fault("there must be a row a run", file))
    baselines: dict[str, int] = {}
    for line, row in rows:
        if None in row or None in row.values():
            faults.append(Fault(f"a row must have {len(columns)} cells", file, line))
            continue
        if (kind := row.get("kind")) and kind not in _KINDS:
            rule = f"must be one of {', '.join(_KINDS)}, or empty"
            faults.append(Fault(rule, file, line, "kind", kind, nearest(kind, _KINDS)))
        if kind == "baseline" and (name := row.get("name")) and baselines.setdefault(name, line) != line:
            faults.append(Fault("each baseline must have a name of its own", file, line, "name", name))
        for name, text in row.items():
            if text and (rule := _broken(name, text, candidates)):
                faults.append(Fault(rule, file, line, name, text))
    return faults


def _broken(name: str, text: str, candidates: int) -> str:
    """The rule that a cell breaks; empty if it breaks none."""
    number = _value(name, text)
    if name not in _NUMBERS:
        return ""
    if not isinstance(number, float):
        return "must be a finite number"
    if name in _SHARES and not 0 <= number <= 1:
        return "must be from 0 to 1" + (", not in percent" if number > 1 else "")
    if name == SCORED_SHARE and number == 0:
        return "must be above 0"
    if name in _FROM_ZERO and number < 0:
        return "must be at least 0"
    if name == "candidates" and number != candidates:
        return f"must be what --candidates says, {candidates}: lists of different length can't be compared"
    return ""


def _value(name: str, text: str) -> float | str:
    """A cell as a number if it is one, else as text."""
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) and name not in _TEXTS else text
