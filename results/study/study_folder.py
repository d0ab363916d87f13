"""A study on disk: which files it has, and what they say. The search writes them, everything else reads them."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pydantic import TypeAdapter, ValidationError

from reranker.config import DataConfig, TrialConfig
from reranker.errors import EnvironmentFault
from reranker.metrics import is_loss, summarise
from reranker.storage.atomic_files import (
    DamagedFile,
    append_line,
    as_line,
    read_json,
    read_lines,
    read_yaml,
    sync_folder,
    write_file,
    write_json,
    writing,
)
from reranker.storage.yaml_lines import dump
from reranker.trial_folder import TrialFolder
from results.study.trial_origin import DRAWN, Origin

RUNS = Path(__file__).resolve().parents[2] / "results" / "runs"

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{32}")
_OLD_S = 3600.0


class StudyBusy(EnvironmentFault):
    """Another process searches in the folder."""


class TrialStatus(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    PRUNED = "pruned"  # stopped before its last epoch, by the scheduler or by hand
    FAILED = "failed"
    CANCELLED = "interrupted"  # the search ended while it ran

    @classmethod
    def _missing_(cls, value: object) -> TrialStatus | None:
        return cls.CANCELLED if value == "cancelled" else None  # as older studies say


@dataclass(frozen=True)
class StoredTrial:
    """What is known of a trial. `epochs` holds the figures of each finished epoch, in order."""

    number: int
    values: dict[str, Any]
    status: TrialStatus
    cause: str
    epochs: list[dict[str, Any]]
    origin: Origin = DRAWN
    notes: tuple[str, ...] = ()  # what happened to it and its figures don't tell
    study: str = ""  # whose it is

    @property
    def name(self) -> str:
        return f"trial {self.number}" + ("" if self.origin == DRAWN else f" ({self.origin})")

    def best(self, metric: str) -> dict[str, Any] | None:
        """The figures of its best epoch (the first one among equals); None before the first."""
        sign = -1 if is_loss(metric) else 1
        return max(self.epochs, key=lambda figures: sign * figures[metric], default=None)


@dataclass(frozen=True)
class StudyFolder:
    """`results/runs/<study>/` as docs/ARCHITECTURE.md describes it."""

    path: Path

    @staticmethod
    def create(runs: Path, name: str, fill: Callable[[StudyFolder], None] = lambda folder: None) -> StudyFolder:
        """A new folder: `name`, or `name-2`, `name-3` … where that is taken; safe when two searches start at once.

        It comes into being whole: made under a hidden name, filled, and renamed. What a start leaves that was killed
        meanwhile is no study, and is removed by a later one.

        Args:
            fill: writes what the study begins with. Where that includes a manifest, it gets the folder's name.

        Raises:
            EnvironmentFault: no permission, or no space; nothing is left.
        """
        with writing(runs / name):
            runs.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(runs)
            hidden = StudyFolder(runs.resolve() / f".{name[:40]}.{uuid.uuid4().hex}")
            hidden.path.mkdir()
            try:
                with hidden.locked():
                    (hidden.path / "trials").mkdir()
                    fill(hidden)
                    return StudyFolder(hidden._take_a_name(name))
            except BaseException:
                shutil.rmtree(hidden.path, ignore_errors=True)
                raise

    def _take_a_name(self, name: str) -> Path:
        """Rename a filled folder to the first name that is free."""
        attempt = 0
        while True:
            attempt += 1
            path = self.path.with_name(name if attempt == 1 else f"{name}-{attempt}")
            if os.path.lexists(path):
                continue
            if (self.path / "manifest.json").exists():
                self.write_manifest(self.read_manifest() | {"name": path.name})
            try:
                self.path.rename(path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                continue  # another search has taken it meanwhile
            sync_folder(path.parent)
            return path

    @staticmethod
    def check_place(runs: Path, name: str) -> None:
        """Try whether a study of this name can be made, and leave nothing.

        Raises:
            EnvironmentFault: it can't.
        """
        with writing(runs / name):
            existing = next(path for path in (runs, *runs.absolute().parents) if os.path.lexists(path))
            if not existing.is_dir():
                raise EnvironmentFault(f"cannot write {runs / name}: {existing} is no folder")
            trial = existing / f".{uuid.uuid4().hex}.tmp"
            trial.mkdir()
            try:
                (trial / f"{name}-99").mkdir()
                (trial / f"{name}-99").rmdir()
            finally:
                trial.rmdir()

    @staticmethod
    def open(runs: Path, study: str) -> StudyFolder:
        """An existing study, by name or by path.

        Raises:
            EnvironmentFault: there is none; lists those that exist.
        """
        for path in (Path(study).expanduser(), runs / study):
            if any(os.path.isfile(path / name) for name in ("manifest.json", "optuna.log")):  # either can be lost
                return StudyFolder(path.resolve())
        known = sorted(p.parent.name for p in runs.glob("[!.]*/manifest.json")) if os.path.isdir(runs) else []
        raise EnvironmentFault(f"there is no study {study!r} in {runs}; there are: {', '.join(known) or 'none'}")

    @property
    def name(self) -> str:
        """The study's own, whatever its folder is called by now."""
        try:
            return str(self.read_manifest().get("name", self.path.name))
        except DamagedFile:
            return self.path.name

    @property
    def leaderboard(self) -> Path:
        return self.path / "leaderboard.csv"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def best_config(self) -> Path:
        return self.path / "best_config.yaml"

    @property
    def study_file(self) -> Path:
        return self.path / "study.yaml"

    @property
    def journal(self) -> Path:
        return self.path / "optuna.log"

    @property
    def control(self) -> Path:
        """Where requests to the running search are left; see `tune/searching/stop_pause_requests.py`."""
        return self.path / "control"

    @property
    def paused(self) -> Path:
        """Exists while no trial may begin, nor go on to its next epoch."""
        return self.control / "paused"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The right to search in this folder, which the system takes back when the process ends, however it ends.

        Raises:
            StudyBusy: another process has it.
            EnvironmentFault: the folder can't be written.
        """
        with writing(self.path):
            lock = (self.path / "search.lock").open("w")
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StudyBusy(f"a search is running in {self.path}; wait for it or stop it first") from None
            except OSError as error:
                raise EnvironmentFault(f"{self.path / 'search.lock'} can't be locked: {error.strerror}") from error
            yield

    def is_searched(self) -> bool:
        """Whether a search is running here now.

        Raises:
            EnvironmentFault: that can't be told.
        """
        path = self.path / "search.lock"
        try:
            with path.open() as file:  # for reading, which a copy that can't be written allows as well
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        except OSError as error:
            raise EnvironmentFault(f"whether a search runs can't be told: {path}: {error.strerror}") from error
        return False

    def trial(self, number: int) -> TrialFolder:
        return TrialFolder(self.path / "trials" / f"{number:03d}")

    @property
    def refit(self) -> TrialFolder:
        """Where the winner's adapter is that was trained on the validation items as well."""
        return TrialFolder(self.path / "refit")

    def baseline(self, name: str) -> TrialFolder:
        """Where the ranks of a baseline on the validation lists are, as those of a trial; any text is a name."""
        return TrialFolder(self.path / "baselines" / quote(name, safe=" ,"))

    def zero_shot(self, model: str) -> tuple[TrialFolder, TrialFolder]:
        """The baselines that are the untrained model: as it is, and with its label prior divided out."""
        plain, without_prior = self.zero_shot_names(model)
        return self.baseline(plain), self.baseline(without_prior)

    @staticmethod
    def zero_shot_names(model: str) -> tuple[str, str]:
        return f"zero-shot {model}", f"zero-shot {model}, no prior"

    def baselines(self) -> list[str]:
        """Those that have ranks, the zero-shot models last."""
        names = [unquote(path.parent.name) for path in (self.path / "baselines").glob("*/ranks.parquet")]
        return sorted(names, key=lambda name: (name.startswith("zero-shot"), name))

    def references(self) -> dict[str, dict[str, float]]:
        """The metrics of every baseline, and of chance."""
        known = {name: summarise(self.baseline(name).read_ranks()[1]) for name in self.baselines()}
        return {**self.read_manifest()["references"], **known}

    def readings(self) -> list[dict[str, Any]]:
        """Every time that the test split was scored, in order."""
        return read_lines(self.path / "test_readings.jsonl")

    @staticmethod
    def readings_text(readings: Sequence[dict[str, Any]]) -> str:
        """What the file of the readings holds."""
        return "".join(as_line(reading) for reading in readings)

    def start_trial(self, number: int, config: TrialConfig, origin: Origin = DRAWN) -> None:
        """Also called for a trial that goes on: what it has already is kept."""
        folder = self.trial(number)
        with writing(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
            self._stop_file(number).unlink(missing_ok=True)
        folder.write_config(config)
        self.write_status(number, TrialStatus.RUNNING, origin=origin)

    def write_status(
        self, number: int, status: TrialStatus, cause: str = "", ours: bool = False, origin: Origin | None = None
    ) -> None:
        """`ours` marks a failure that is not the user's to mend; `origin` stays what it was unless given."""
        known = self.read_status(number).get("origin", "") if origin is None else str(origin)
        facts = {"status": status.value, "cause": cause, "ours": ours, "origin": known}
        write_json(self.trial(number).path / "status.json", facts)

    def ask_to_stop(self, number: int, status: TrialStatus, cause: str = "") -> None:
        """Leave word for a running trial to end soon, and what it shall count as then."""
        write_json(self._stop_file(number), {"status": status.value, "cause": cause})

    def asked_to_stop(self, number: int) -> tuple[TrialStatus, str] | None:
        """(status, cause) of a trial that shall end, None if it may go on."""
        if not self._stop_file(number).exists():
            return None
        asked = read_json(self._stop_file(number))
        return TrialStatus(asked["status"]), asked["cause"]

    def _stop_file(self, number: int) -> Path:
        return self.trial(number).path / "stop.json"

    def record_act(self, text: str) -> None:
        """Something that was done to the search: by hand, by a budget, by a signal."""
        append_line(self.path / "acts.jsonl", {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "act": text})

    def acts(self) -> list[dict[str, str]]:
        return read_lines(self.path / "acts.jsonl")

    def write_ending(self, reason: str, complete: bool) -> None:
        """Why the search ended, and whether nothing is left to resume."""
        write_json(self.path / "ending.json", {"reason": reason, "complete": complete})

    def read_ending(self) -> dict[str, Any]:
        """`reason` and `complete`; of a search that runs, or died, the reason is empty."""
        path = self.path / "ending.json"
        return read_json(path) if path.exists() else {"reason": "", "complete": False}

    def read_status(self, number: int) -> dict[str, Any]:
        return read_json(self.trial(number).path / "status.json")

    def numbers(self) -> list[int]:
        """Of the trials that were started, but for those that were left out."""
        folders = [path.parent.name for path in (self.path / "trials").glob("*/status.json")]
        return sorted({int(name) for name in folders if name.isdecimal()} - self.left_out().keys())

    def running(self) -> list[int]:
        """Trials that run, or did when a search was killed."""
        return [n for n in self.numbers() if self.read_status(n)["status"] == TrialStatus.RUNNING]

    def leave_out(self, number: int, why: str) -> None:
        """Count a trial as if it had never been, for good: its files are damaged."""
        append_line(self.path / "left_out.jsonl", {"trial": number, "why": why})

    def left_out(self) -> dict[int, str]:
        """Why, by number."""
        return {int(line["trial"]): str(line["why"]) for line in read_lines(self.path / "left_out.jsonl")}

    def trials(self) -> Iterator[StoredTrial]:
        """Every trial that was started, in the order of their numbers."""
        for number in self.numbers():
            folder, status = self.trial(number), self.read_status(number)
            values = folder.read_config().model_dump(mode="json")
            yield StoredTrial(
                number,
                values,
                TrialStatus(status["status"]),
                status["cause"],
                folder.read_epochs(),
                Origin.parse(status.get("origin", "")),
                tuple(folder.read_notes()),
                self.name,
            )

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Versions, command, data fingerprint, metric, searched knobs, and the scores of baselines and chance."""
        write_json(self.path / "manifest.json", manifest)

    def read_manifest(self) -> dict[str, Any]:
        return read_json(self.path / "manifest.json")

    def read_data_config(self) -> DataConfig:
        """What the study's trials were trained and scored on."""
        try:
            config: DataConfig = TypeAdapter(DataConfig).validate_python(self.read_sections()["data"])
        except (KeyError, ValidationError):
            raise DamagedFile(self.study_file, "is damaged: it says of no data what they are") from None
        return config

    def read_sections(self) -> dict[str, Any]:
        """The study file as it was resolved, section by section."""
        return read_yaml(self.study_file)

    def write_best_config(self, trial: StoredTrial) -> None:
        """The winner's configuration, every knob, and the study's data, as `python -m reranker.train --config` takes it."""
        head = f"# Trial {trial.number} of the study {self.name}: every knob, resolved, and the study's data.\n"
        data = self.read_data_config().model_dump(mode="json")
        write_file(self.best_config, head + dump({**trial.values, "data": data}))


def _remove_leftovers(runs: Path) -> None:
    """What starts that were killed have left: hidden, old, and locked by nobody."""
    for path in runs.iterdir():
        try:
            if _LEFTOVER.fullmatch(path.name) and time.time() - path.stat().st_mtime > _OLD_S:
                with StudyFolder(path).locked():
                    shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
