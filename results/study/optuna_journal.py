"""Optuna's journal of a study → what it remembers: trials and their reports, baselines, test readings, the manifest.

The search writes it before it shows anything, so it is what a study's folder is held against (`results.study.integrity`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reranker.storage.atomic_files import DamagedFile, cut_torn_line, writing
from results.study.trial_origin import Origin, OriginKind

ORIGIN = "origin"  # the attribute of a trial that says how it came to be
ENDS = "ends"  # the attribute of a trial that shall end: its status, how many ended before it, the cause, whether it is ours
_MANIFEST, _BASELINE, _READING = "manifest", "baseline/", "test_reading/"
_REMEDY = "restore it from a copy: without it nobody can tell what was trained"


@dataclass(frozen=True)
class TrialRecord:
    """What the journal knows of a trial.

    Attributes:
        state: running, complete, pruned, fail or waiting.
        reports: the study's metric by epoch.
        cause: of a failure; `ours` where it is not the user's to mend.
    """

    state: str
    reports: dict[int, float]
    origin: Origin
    cause: str = ""
    ours: bool = False


def create_journal(path: Path, name: str, *, minimise: bool, manifest: dict[str, Any]) -> None:
    """A new study's journal, which remembers its manifest."""
    import optuna  # here, since whoever only reads a report need not wait for it

    with writing(path):
        study = optuna.create_study(
            study_name=name, storage=_storage(path), direction="minimize" if minimise else "maximize"
        )
        study.set_user_attr(_MANIFEST, manifest)


def repair(path: Path) -> None:
    """After a kill: remove Optuna's lock, which nobody holds any more, and a last line that was cut short.

    For whoever has the study's lock.
    """
    lock = f"{path}.lock"
    with writing(path):
        if os.path.lexists(lock):
            os.unlink(lock)
        if path.exists():
            with path.open("rb+") as file:
                cut_torn_line(file)


class Journal:
    """A study's journal, open for reading.

    Raises:
        DamagedFile: it is missing, unreadable, or not a journal of one study.
    """

    def __init__(self, path: Path) -> None:
        import optuna

        if not path.is_file():  # Optuna would make a new one
            raise DamagedFile(path, "is missing", _REMEDY)
        try:
            self._study = optuna.load_study(study_name=None, storage=_storage(path))
        except Exception as error:  # noqa: BLE001  (Optuna replays whatever the lines say, and fails in as many ways)
            damage = "is empty" if not path.stat().st_size else f"is damaged ({type(error).__name__} in Optuna)"
            raise DamagedFile(path, damage, _REMEDY) from None
        self._attributes: dict[str, Any] = self._study.user_attrs

    @property
    def manifest(self) -> dict[str, Any] | None:
        """As it was when the study began; None in a journal that was made without one."""
        return self._attributes.get(_MANIFEST)

    @property
    def baselines(self) -> dict[str, dict[str, float]]:
        """The metrics of each baseline that was scored while the search ran."""
        return {k.removeprefix(_BASELINE): v for k, v in self._attributes.items() if k.startswith(_BASELINE)}

    @property
    def readings(self) -> list[dict[str, Any]]:
        """Every time that the test split was scored, in order."""
        found = {int(k.removeprefix(_READING)): v for k, v in self._attributes.items() if k.startswith(_READING)}
        return [found[number] for number in sorted(found)]

    def trials(self) -> dict[int, TrialRecord]:
        """By number, without those that were taken over from another study."""
        trials = self._study.get_trials(deepcopy=False)
        return {t.number: _record(t) for t in trials if origin_of(t).kind is not OriginKind.WARM_START}

    def remember_reading(self, reading: dict[str, Any]) -> None:
        """For whoever has the study's lock."""
        self._study.set_user_attr(f"{_READING}{len(self.readings) + 1}", reading)
        self._attributes = self._study.user_attrs


def baseline_attribute(name: str) -> str:
    """Under which the journal of a running search remembers a baseline's metrics."""
    return f"{_BASELINE}{name}"


def origin_of(trial: Any) -> Origin:
    """How one of Optuna's trials came to be."""
    return Origin.parse(str(trial.user_attrs.get(ORIGIN, "")))


def _record(trial: Any) -> TrialRecord:
    _, _, cause, ours = trial.user_attrs.get(ENDS, ("", 0, "", False))
    return TrialRecord(trial.state.name.lower(), trial.intermediate_values, origin_of(trial), cause, ours)


def _storage(path: Path) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return JournalStorage(JournalFileBackend(str(path)))
