"""Optuna's journal of a study → its trials and their reports, baselines, test readings and manifest.

The search writes it before it shows anything, so a study's folder is checked against it (`results.study.checked_folder`).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reranker.storage.atomic_files import DamagedFile, cut_torn_line, writing
from reranker.storage.file_permissions import make_file
from results.study.trial_origin import Origin, OriginKind

ORIGIN = "origin"  # the attribute of a trial with its origin
ENDS = "ends"  # the attribute of a trial that is about to end: (status, trials ended before it, cause, ours)
CONFIG = (
    "config"  # the attribute of a trial with the digest of its configuration, as `TrialFolder.config_digest` has it
)
BROKEN_RULE = "broken_rule"  # the attribute of a draw that is no trial, since its knobs do not go together: why
_MANIFEST, _BASELINE, _READING = "manifest", "baseline/", "test_reading/"
_REMEDY = "restore it from a copy: without it nobody can tell what was trained"


@dataclass(frozen=True)
class TrialRecord:
    """What the journal knows of a trial.

    Attributes:
        state: running, complete, pruned, fail or waiting.
        reports: the study's metric by report, counted from 1.
        cause: the cause of a failure.
        ours: whether the user can't fix that cause.
        config: the digest of its configuration; empty in the journals of studies begun before it was kept.
    """

    state: str
    reports: dict[int, float]
    origin: Origin
    cause: str = ""
    ours: bool = False
    config: str = ""


def create_journal(path: Path, name: str, *, minimise: bool, manifest: dict[str, Any]) -> None:
    """Create a new study's journal and store its manifest in it."""
    import optuna  # imported late, so that reading a report does not wait for it

    with writing(path):
        make_file(path)
        study = optuna.create_study(
            study_name=name, storage=_storage(path), direction="minimize" if minimise else "maximize"
        )
        study.set_user_attr(_MANIFEST, manifest)


def repair(path: Path) -> None:
    """Clean up after a kill: remove Optuna's stale lock and a torn last line; also one that is no JSON, over which Optuna
    would stumble once another follows it. What it held, the folder is asked for.

    Only the holder of the study's lock may call this.
    """
    lock = f"{path}.lock"
    with writing(path):
        if os.path.lexists(lock):
            os.unlink(lock)
        if path.exists():
            with path.open("rb+") as file:
                end = cut_torn_line(file)
                file.seek(0)
                last = file.read(end).splitlines(keepends=True)[-1:]
                if last and not _is_json(last[0]):
                    file.truncate(end - len(last[0]))


class Journal:
    """A study's journal, open for reading.

    Raises:
        DamagedFile: it is missing, unreadable, or not a journal of one study.
    """

    def __init__(self, path: Path) -> None:
        import optuna

        if not path.is_file():  # Optuna would create a new one
            raise DamagedFile(path, "is missing", _REMEDY)
        try:
            self._study = optuna.load_study(study_name=None, storage=_storage(path))
        except Exception as error:  # noqa: BLE001  (Optuna replays the lines, and may raise anything)
            raise DamagedFile(path, _damage(path, error), _REMEDY) from None
        self._attributes: dict[str, Any] = self._study.user_attrs

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The manifest from the start of the study; None if the journal has none."""
        return self._attributes.get(_MANIFEST)

    @property
    def baselines(self) -> dict[str, dict[str, float]]:
        """The metrics of each baseline that was scored during the search."""
        return {
            key.removeprefix(_BASELINE): value for key, value in self._attributes.items() if key.startswith(_BASELINE)
        }

    @property
    def readings(self) -> list[dict[str, Any]]:
        """Every time that the test split was scored, in order."""
        readings = {
            int(key.removeprefix(_READING)): value
            for key, value in self._attributes.items()
            if key.startswith(_READING)
        }
        return [readings[number] for number in sorted(readings)]

    def trials(self) -> dict[int, TrialRecord]:
        """The trials by number, without those taken from another study and draws that were passed over."""
        trials = self._study.get_trials(deepcopy=False)
        return {
            trial.number: _record(trial)
            for trial in trials
            if origin_of(trial).kind is not OriginKind.WARM_START and not is_passed_over(trial)
        }

    def remember_reading(self, reading: dict[str, Any]) -> None:
        """Store a test reading. Only the holder of the study's lock may call this."""
        self._study.set_user_attr(f"{_READING}{len(self.readings) + 1}", reading)
        self._attributes = self._study.user_attrs


def baseline_attribute(name: str) -> str:
    """The attribute for a baseline's metrics in the journal of a running search."""
    return f"{_BASELINE}{name}"


def origin_of(trial: Any) -> Origin:
    """The origin of an Optuna trial."""
    return Origin.parse(str(trial.user_attrs.get(ORIGIN, "")))


def is_passed_over(trial: Any) -> bool:
    """Whether it is a draw that no trial was made of."""
    return BROKEN_RULE in trial.user_attrs


def _record(trial: Any) -> TrialRecord:
    _, _, cause, ours = trial.user_attrs.get(ENDS, ("", 0, "", False))
    config = str(trial.user_attrs.get(CONFIG, ""))
    return TrialRecord(trial.state.name.lower(), trial.intermediate_values, origin_of(trial), cause, ours, config)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _damage(path: Path, error: Exception) -> str:
    from results.study.journal_file import ChangedLine

    if not path.stat().st_size:
        return "is empty"
    return f"is damaged: {error if isinstance(error, ChangedLine) else f'{type(error).__name__} in Optuna'}"


def _storage(path: Path) -> Any:
    import optuna

    from results.study.journal_file import storage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return storage(path)
