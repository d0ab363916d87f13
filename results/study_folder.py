"""A study on disk: which files it has, and what they say. The search writes them, everything else reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault
from reranker.trial_folder import TrialFolder, write_text, writing


class TrialStatus(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    PRUNED = "pruned"  # stopped by the scheduler before its last epoch
    FAILED = "failed"
    CANCELLED = "cancelled"  # the search ended while it ran


@dataclass(frozen=True)
class StoredTrial:
    """What is known of a trial. `epochs` holds the figures of each finished epoch, in order."""

    number: int
    values: dict[str, Any]
    status: TrialStatus
    cause: str
    epochs: list[dict[str, Any]]

    def best(self, metric: str) -> dict[str, Any] | None:
        """The figures of its best epoch (the first one among equals); None before the first."""
        sign = -1 if metric.endswith("_loss") else 1
        return max(self.epochs, key=lambda figures: sign * figures[metric], default=None)


@dataclass(frozen=True)
class StudyFolder:
    """`results/runs/<study>/` as docs/ARCHITECTURE.md describes it."""

    path: Path

    @staticmethod
    def create(runs: Path, name: str) -> StudyFolder:
        """A new folder: `name`, or `name-2`, `name-3` … where that is taken; safe when two searches start at once.

        Raises:
            EnvironmentFault: no permission, or no space.
        """
        attempt = 1
        with writing(runs / name):
            runs.mkdir(parents=True, exist_ok=True)
            while True:
                path = runs / (name if attempt == 1 else f"{name}-{attempt}")
                try:
                    path.mkdir()
                except FileExistsError:
                    attempt += 1
                    continue
                (path / "trials").mkdir()
                return StudyFolder(path)

    @staticmethod
    def open(runs: Path, study: str) -> StudyFolder:
        """An existing study, by name or by path.

        Raises:
            EnvironmentFault: there is none; lists those that exist.
        """
        for path in (Path(study).expanduser(), runs / study):
            if (path / "manifest.json").is_file():
                return StudyFolder(path.resolve())
        known = sorted(p.parent.name for p in runs.glob("*/manifest.json")) if runs.is_dir() else []
        raise EnvironmentFault(f"there is no study {study!r} in {runs}; there are: {', '.join(known) or 'none'}")

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def leaderboard(self) -> Path:
        return self.path / "leaderboard.csv"

    @property
    def best_config(self) -> Path:
        return self.path / "best_config.yaml"

    @property
    def study_file(self) -> Path:
        return self.path / "study.yaml"

    @property
    def journal(self) -> Path:
        return self.path / "optuna.log"

    def trial(self, number: int) -> TrialFolder:
        return TrialFolder(self.path / "trials" / f"{number:03d}")

    def start_trial(self, number: int, values: dict[str, Any]) -> None:
        folder = self.trial(number)
        with writing(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_config(TrialConfig.model_validate(values))
        self.write_status(number, TrialStatus.RUNNING)

    def write_status(self, number: int, status: TrialStatus, cause: str = "", ours: bool = False) -> None:
        """`ours` marks a failure that is not the user's to mend."""
        facts = {"status": status.value, "cause": cause, "ours": ours}
        write_text(self.trial(number).path / "status.json", json.dumps(facts) + "\n")

    def read_status(self, number: int) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.trial(number).path / "status.json").read_text(encoding="utf-8"))
        return facts

    def numbers(self) -> list[int]:
        return sorted(int(path.parent.name) for path in (self.path / "trials").glob("*/status.json"))

    def trials(self) -> Iterator[StoredTrial]:
        """Every trial that was started, in the order of their numbers."""
        for number in self.numbers():
            folder, status = self.trial(number), self.read_status(number)
            values = folder.read_config().model_dump(mode="json")
            yield StoredTrial(number, values, TrialStatus(status["status"]), status["cause"], folder.read_epochs())

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Versions, command, data fingerprint, metric, searched knobs, and the scores of baselines and chance."""
        write_text(self.path / "manifest.json", json.dumps(manifest, indent=2) + "\n")

    def read_manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.path / "manifest.json").read_text(encoding="utf-8"))
        return manifest

    def write_best_config(self, trial: StoredTrial) -> None:
        """The winner's configuration, every knob, as `python -m reranker.train --config` takes it."""
        head = f"# Trial {trial.number} of the study {self.name}: every knob, resolved.\n"
        write_text(self.best_config, head + yaml.safe_dump(trial.values, sort_keys=False))
