"""A study's folder → Weights & Biases: a run a trial and a baseline, and one for the study, all in a group of its name.

A run's id is made of the study's and the trial's number, so a trial never gets a second run. Online, W&B says what a run has
already. Offline it can't: what an earlier launch has left of a run is written anew, whole, in place of its files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any
from zlib import crc32

os.environ.setdefault(
    "WANDB_ERROR_REPORTING", "false"
)  # read when it is imported; our faults are none of W&B's concern

import wandb

from reranker.storage.atomic_files import DamagedFile, read_json, write_json, writing
from reranker.storage.file_permissions import make_folder
from results.leaderboard import standing
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder
from tune.mirroring.run_names import configuration_of, run_name
from tune.mirroring.tracked_figures import applied, between_reports, last_step, of_best, of_rankers, points
from tune.mirroring.tracked_outcome import Outcome
from tune.other_trackers.tracker_files import wandb_parent, wandb_state
from tune.other_trackers.wandb_account import Mode

_FINISH_S = 30.0  # for what is still to be sent at a run's end
_DONE = (TrialStatus.COMPLETED, TrialStatus.PRUNED)
_BETWEEN = "step/examples"  # where the last line between two reports stands


class WandbRuns:
    """Brings W&B's runs up to a study's folder, as often as it is asked to."""

    def __init__(self, study: StudyFolder, mode: Mode) -> None:
        self.study, self._mode = study, mode
        self._parent, self._state = wandb_parent(study), wandb_state(study)
        self._runs: dict[str, _Run] = {}
        self._reach = 0  # the step up to which baselines are drawn
        self._whole: dict[str, str] | None = None  # run → what W&B has of it, once it has been ended

    def bring_up(self, *, ended: bool = False) -> None:
        """See `tune.mirroring.mirror_thread.Mirror`.

        Raises:
            wandb.Error, OSError: W&B does not take it, or a file can't be written.
        """
        try:
            with writing(self._parent):
                self._bring_up(ended=ended)
        except Exception:
            for run in self._runs.values():
                with suppress(Exception):
                    run.finish(failed=True)
            self._runs, self._reach = {}, 0
            raise

    def _bring_up(self, *, ended: bool) -> None:
        if self._whole is None:
            self._whole = self._read_state()
        make_folder(self._parent)
        manifest = self.study.read_manifest()
        self._group = manifest["study_id"][:8]
        if "study" not in self._runs and not self._has("study", self._study_state()):
            self._of_study()
        longest = 1
        for trial in standing(self.study):
            longest = max(longest, last_step(trial))
            if not self._has(f"{trial.number:03d}", _state_of(trial)):
                self._send(trial, manifest["metric"], manifest["knobs"])
        self._send_rankers(longest, ended=ended)
        if ended:
            self._close()

    def _has(self, key: str, state: str) -> bool:
        return (self._whole or {}).get(key) == f"{self._mode}: {state}"

    def _run(self, key: str, name: str, kind: str, config: Mapping[str, Any]) -> _Run:
        if key not in self._runs:
            run_id = f"{self._group}-{key}"
            if self._mode == "offline":
                for left in (self._parent / "wandb").glob(f"offline-run-*-{run_id}"):
                    shutil.rmtree(left)
            self._runs[key] = _Run(
                wandb.init(
                    project=self.study.name.replace(" ", "-"),
                    group=self.study.name,
                    job_type=kind,
                    id=run_id,
                    name=name,
                    config=dict(config),
                    dir=str(self._parent),
                    mode=self._mode,
                    resume="allow",
                    reinit="create_new",  # trials run side by side
                    settings=_quiet(),
                )
            )
        return self._runs[key]

    def _of_study(self) -> _Run:
        manifest = self.study.read_manifest()
        facts = {key: manifest[key] for key in ("study_id", "metric", "knobs", "plan", "tags")}
        return self._run("study", f"study {self.study.name}", "study", facts)

    def _finish(self, key: str, state: str, *, failed: bool = False) -> None:
        self._runs.pop(key).finish(failed=failed)
        self._whole = {**(self._whole or {}), key: f"{self._mode}: {state}"}
        write_json(self._state, {"runs": self._whole})

    def _read_state(self) -> dict[str, str]:
        try:
            return dict(read_json(self._state)["runs"]) if self._state.exists() else {}
        except (DamagedFile, KeyError):
            return {}  # everything is sent anew

    def _send(self, trial: StoredTrial, metric: str, knobs: list[str]) -> None:
        key = f"{trial.number:03d}"
        about = {"trial": trial.number, "configuration": configuration_of(trial), "origin": str(trial.origin)}
        run = self._run(key, run_name(trial, knobs), "trial", {**trial.values, **about})
        run.log_reports(
            {"examples": point.step, "epoch": point.epoch, "report": point.number, **point.figures, **point.best}
            for point in points(trial, metric)
        )
        run.log_between(
            {"examples": examples, **figures, _BETWEEN: examples}
            for examples, figures in between_reports(self.study, trial.number)
        )
        said = {"status": trial.status.value, "cause": trial.cause, "notes": "; ".join(trial.notes)}
        best = trial.best(metric)
        run.summarise({**said, **({} if best is None else of_best(best, metric))})
        if trial.status is not TrialStatus.RUNNING:
            run.summarise(applied(trial))
            self._finish(key, _state_of(trial), failed=trial.status not in _DONE)

    def _send_rankers(self, longest: int, *, ended: bool) -> None:
        """Level lines, from before the first report to the last of all."""
        if longest == self._reach and not ended:
            return
        for name, figures in of_rankers(self.study).items():
            key = f"baseline-{crc32(name.encode()):08x}"
            if self._has(key, str(longest)):
                continue
            run = self._run(key, name, "baseline", {"baseline": name})
            run.log_reports({"examples": step, "report": step + 1, **figures} for step in (0, longest))
            if ended:
                self._finish(key, str(longest))
        self._reach = longest

    def _close(self) -> None:
        state = self._study_state()
        if self._has("study", state):
            return
        outcome, ending, run = Outcome.of(self.study), self.study.read_ending(), self._of_study()
        run.summarise({f"proven/{name}": result for name, result in outcome.proven.items()})
        run.summarise({f"chance/{name}": value for name, value in self.study.references()["chance"].items()})
        for i, reading in enumerate(self.study.readings(), start=1):
            run.summarise({f"test/{name}": value for name, value in reading["figures"].items()} | {"test/readings": i})
        winner = None if outcome.best is None else outcome.best.number
        run.summarise({**outcome.figures, **ending, "winner": winner})
        self._finish("study", state)

    def _study_state(self) -> str:
        """Changes with whatever its run says."""
        ending, readings = self.study.read_ending(), len(self.study.readings())
        reports = [(number, len(self.study.trial(number).read_reports())) for number in self.study.numbers()]
        return f"{crc32(repr((ending, readings, reports)).encode()):08x}"


class _Run:
    """A run that is open, and how much of it W&B has."""

    def __init__(self, run: wandb.Run) -> None:
        self._run = run
        run.define_metric("*", step_metric="examples")
        logged: Any = run.summary if run.resumed else {}
        self._reports, self._between = (int(logged.get(name) or 0) for name in ("report", _BETWEEN))

    def log_reports(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Those that come after the last one that it has, by `report`."""
        for row in rows:
            if row["report"] > self._reports:
                self._run.log(dict(row))
                self._reports = row["report"]

    def log_between(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Those that come after the last one that it has, by examples."""
        for row in rows:
            if row[_BETWEEN] > self._between:
                self._run.log(dict(row))
                self._between = row[_BETWEEN]

    def summarise(self, values: Mapping[str, Any]) -> None:
        """What stands in tables of runs."""
        self._run.summary.update(dict(values))

    def finish(self, *, failed: bool) -> None:
        """Have everything written, and sent as far as there is a network."""
        self._run.finish(exit_code=1 if failed else 0)


def _state_of(trial: StoredTrial) -> str:
    return f"{trial.status.value}, {len(trial.reports)} reports"


def _quiet() -> wandb.Settings:
    """W&B else reads the terminal, the code and the machine, and ends the search when a run is stopped in its pages."""
    return wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        x_disable_machine_info=True,
        finish_timeout=_FINISH_S,
        finish_timeout_raises=True,
        stop_fn=lambda: None,
    )
