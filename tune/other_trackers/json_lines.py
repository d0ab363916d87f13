"""A study's folder → `trackers/events.jsonl`, a line an event, for programs of the user's own. docs/STUDY_FILES.md has
its fields.

Lines are only ever added. What the file has already is read once, so a search that goes on adds what came since.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from reranker.storage.atomic_files import DamagedFile, append_line, read_lines
from results.leaderboard import standing
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder
from tune.mirroring.run_names import configuration_of, run_name
from tune.mirroring.tracked_figures import applied, between_reports, finite, of_best, of_rankers, points
from tune.mirroring.tracked_outcome import Outcome
from tune.other_trackers.tracker_files import events_file

FORMAT = 1  # of the lines
_ANEW = "delete it, and it will be written again"


class JsonLines:
    """Brings the file of events up to a study's folder, as often as it is asked to."""

    def __init__(self, study: StudyFolder) -> None:
        self.study, self.path = study, events_file(study)
        self._known = False

    def bring_up(self, *, ended: bool = False) -> None:
        """See `tune.mirroring.mirror_thread.Mirror`.

        Raises:
            EnvironmentFault: the file can't be written, or holds something else.
        """
        try:
            if not self._known:
                self._read()
            for event in self._missing(ended=ended):
                append_line(self.path, {**event, "time": time.strftime("%Y-%m-%d %H:%M:%S")})
                self._remember(event)
        except Exception:
            self._known = False  # read again what has arrived
            raise

    def _read(self) -> None:
        self._begun: set[int] = set()  # trials
        self._baselines: set[str] = set()
        self._reports: dict[int, int] = {}
        self._steps: dict[int, int] = {}  # trial → examples up to which there are lines between its reports
        self._ends: dict[int, dict[str, Any]] = {}  # the last, by trial, unless more came after it
        self._readings = 0
        self._study: dict[str, Any] | None = None
        self._found: dict[str, Any] | None = None
        try:
            for event in read_lines(self.path):
                event.pop("time", None)
                self._remember(event)
        except (KeyError, TypeError, ValueError):
            raise DamagedFile(self.path, "holds lines that this program did not write", _ANEW) from None
        except DamagedFile as damage:
            raise DamagedFile(damage.path, damage.damage, _ANEW) from None
        self._known = True

    def _remember(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "study":
                self._study = event
            case "baseline":
                self._baselines.add(event["baseline"])
            case "trial":
                self._begun.add(event["trial"])
            case "report":
                self._reports[event["trial"]] = event["report"]
                self._ends.pop(event["trial"], None)
            case "step":
                self._steps[event["trial"]] = event["examples"]
                self._ends.pop(event["trial"], None)
            case "trial_end":
                self._ends[event["trial"]] = event
            case "test_reading":
                self._readings = event["reading"]
            case "study_end":
                self._found = event

    def _missing(self, *, ended: bool) -> Iterator[dict[str, Any]]:
        """The events that the file lacks, in the order in which they belong into it."""
        manifest = self.study.read_manifest()
        if self._study is None:
            yield {
                "event": "study",
                "format": FORMAT,
                "study": self.study.name,
                "study_id": manifest["study_id"],
                "metric": manifest["metric"],
                "knobs": manifest["knobs"],
                "plan": manifest["plan"],
                "tags": manifest["tags"],
            }
        if {"chance", *self.study.baselines()} - self._baselines:
            for name, figures in of_rankers(self.study).items():
                if name not in self._baselines:
                    yield {"event": "baseline", "baseline": name, "figures": finite(figures)}
        for trial in standing(self.study):
            yield from self._of_trial(trial, manifest["metric"], manifest["knobs"])
        if ended:
            yield from self._of_end()

    def _of_trial(self, trial: StoredTrial, metric: str, knobs: list[str]) -> Iterator[dict[str, Any]]:
        head, end = {"trial": trial.number}, self._ends.get(trial.number, {})
        if (end.get("status"), end.get("reports")) == (trial.status.value, len(trial.reports)):
            return
        if trial.number not in self._begun:
            yield {
                "event": "trial",
                **head,
                "name": run_name(trial, knobs),
                "configuration": configuration_of(trial),
                "origin": str(trial.origin),
                "config": trial.values,
            }
        sent = self._reports.get(trial.number, 0)
        for point in points(trial, metric):
            if point.number > sent:
                place = {"report": point.number, "epoch": point.epoch, "examples": point.step}
                figures = {"figures": finite(point.figures), "best": finite(point.best)}
                yield {"event": "report", **head, **place, **figures}
        between = self._steps.get(trial.number, 0)
        for examples, measured in between_reports(self.study, trial.number):
            if examples > between:
                yield {"event": "step", **head, "examples": examples, "figures": finite(measured)}
        if trial.status is not TrialStatus.RUNNING:
            best = trial.best(metric)
            yield {
                "event": "trial_end",
                **head,
                "status": trial.status.value,
                "cause": trial.cause,
                "notes": list(trial.notes),
                "reports": len(trial.reports),
                "best": {} if best is None else finite(of_best(best, metric)),
                "applied": finite(applied(trial)),
            }

    def _of_end(self) -> Iterator[dict[str, Any]]:
        readings = self.study.readings()
        for i, reading in enumerate(readings[self._readings :], start=self._readings + 1):
            facts = {"reading": i, "at": reading["time"], "trial": reading["trial"]}
            yield {"event": "test_reading", **facts, "figures": finite(reading["figures"])}
        outcome, ending = Outcome.of(self.study), self.study.read_ending()
        found = {
            "event": "study_end",
            "complete": ending["complete"],
            "reason": ending["reason"],
            "winner": None if outcome.best is None else outcome.best.number,
            "figures": finite(outcome.figures),
            "proven": outcome.proven,
        }
        if found != self._found:
            yield found
