"""A study on disk: its files and their content. The search writes them, everything else reads them."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pydantic import TypeAdapter, ValidationError

from reranker.artifacts.trial_folder import TrialFolder
from reranker.command_line.redaction import encodable, masked
from reranker.config import TrialConfig
from reranker.data_config import DataConfig
from reranker.errors import EnvironmentFault
from reranker.metrics import summarise
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
from reranker.storage.file_permissions import make_folder, opener
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.trial_origin import DRAWN, Origin

_LEFTOVER, _OLD_S = re.compile(r"\..+\.[0-9a-f]{32}"), 3600.0
_ELSEWHERE = "--runs FOLDER or the variable RERANKER_TUNER_HOME names another place"
# Formats of studies: the file of the test's readings is there before the first one, and begins with a line that is none.
READINGS_FROM_THE_START, READINGS_BEGUN = 3, 4
_NO_READING = {"time": "", "trial": -1}


class StudyBusy(EnvironmentFault):
    """Another process is searching in the folder."""


@dataclass(frozen=True)
class StudyFolder:
    """`results/runs/<study>/` as docs/ARCHITECTURE.md describes it."""

    path: Path

    @staticmethod
    def create(
        runs: Path,
        name: str,
        fill: Callable[[StudyFolder], None] = lambda folder: None,
        is_taken: Callable[[str], bool] = lambda name: False,
    ) -> StudyFolder:
        """Create a folder: `name`, or `name-2`, `name-3` … if that is taken. Safe if two searches start at once.

        It appears complete: made under a hidden name, filled, then renamed. A later start removes what a kill has left.

        Args:
            fill: writes the initial files. A manifest among them gets the folder's name.
            is_taken: whether a name is taken elsewhere.

        Raises:
            EnvironmentFault: no permission or no space; nothing is left behind.
        """
        with writing(runs / name):
            make_folder(runs)
            _remove_leftovers(runs)
            hidden = StudyFolder(runs.resolve() / f".{name[:40]}.{uuid.uuid4().hex}")
            make_folder(hidden.path)
            try:
                with hidden.locked():
                    make_folder(hidden.path / "trials")
                    fill(hidden)
                    return StudyFolder(hidden._take_a_name(name, is_taken))
            except BaseException:
                shutil.rmtree(hidden.path, ignore_errors=True)
                raise

    def _take_a_name(self, name: str, is_taken: Callable[[str], bool]) -> Path:
        """Rename a filled folder to the first free name."""
        attempt = 0
        while True:
            attempt += 1
            path = self.path.with_name(name if attempt == 1 else f"{name}-{attempt}")
            if os.path.lexists(path) or is_taken(path.name):
                continue
            if (self.path / "manifest.json").exists():
                self.write_manifest(self.read_manifest() | {"name": path.name})
            try:
                self.path.rename(path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                continue  # another search took it meanwhile
            sync_folder(path.parent)
            return path

    @staticmethod
    def check_place(runs: Path, name: str) -> None:
        """Check that a study of this name can be created; leaves nothing behind.

        Raises:
            EnvironmentFault: it can't be.
        """
        existing = next(path for path in (runs, *runs.absolute().parents) if os.path.lexists(path))
        if not existing.is_dir():
            raise EnvironmentFault(f"cannot write {runs / name}: {existing} is no folder; {_ELSEWHERE}")
        probe = existing / f".{uuid.uuid4().hex}.tmp"
        try:
            with writing(runs / name):
                probe.mkdir()
                try:
                    (probe / f"{name}-99").mkdir()
                    (probe / f"{name}-99").rmdir()
                finally:
                    probe.rmdir()
        except EnvironmentFault as fault:
            fault.args = (f"{fault}; {_ELSEWHERE}",)
            raise

    @staticmethod
    def open(runs: Path, study: str) -> StudyFolder:
        """An existing study, by name or by path.

        Raises:
            EnvironmentFault: there is none; the message lists those that exist.
        """
        for path in (Path(os.path.expanduser(study)), runs / study):
            if any(os.path.isfile(path / name) for name in ("manifest.json", "optuna.log")):  # either may be lost
                return StudyFolder(path.resolve())
        names = sorted(manifest.parent.name for manifest in runs.glob("[!.]*/manifest.json"))
        raise EnvironmentFault(f"there is no study {study!r} in {runs}; there are: {', '.join(names) or 'none'}")

    @property
    def name(self) -> str:
        """The study's own name, even if its folder was renamed."""
        try:
            return str(self.read_manifest().get("name", self.path.name))
        except DamagedFile:
            return self.path.name

    @property
    def leaderboard(self) -> Path:
        """The leaderboard as CSV."""
        return self.path / "leaderboard.csv"

    @property
    def segments(self) -> Path:
        """The winner and the baselines by segment of the lists, as CSV."""
        return self.path / "segments.csv"

    @property
    def top_items(self) -> Path:
        """What the winner puts first, item by item, as CSV."""
        return self.path / "top_items.csv"

    @property
    def report(self) -> Path:
        """The report's page; the Markdown report lies beside it."""
        return self.path / "report.html"

    @property
    def best_config(self) -> Path:
        """The winner's configuration."""
        return self.path / "best_config.yaml"

    @property
    def study_file(self) -> Path:
        """The resolved study file."""
        return self.path / "study.yaml"

    @property
    def journal(self) -> Path:
        """Optuna's journal."""
        return self.path / "optuna.log"

    @property
    def control(self) -> Path:
        """The folder of requests to the running search; see `tune/searching/stop_pause_requests.py`."""
        return self.path / "control"

    @property
    def paused(self) -> Path:
        """Exists while no trial may start, or go on after its next report."""
        return self.control / "paused"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the search. The system releases it when the process ends, even if killed.

        Raises:
            StudyBusy: another process holds it.
            EnvironmentFault: the folder can't be written.
        """
        with writing(self.path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK  # so that a pipe in its place is not waited for
            lock = os.fdopen(opener(str(self.path / "search.lock"), flags), "w")
        with lock as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StudyBusy(f"a search is running in {self.path}; wait for it or stop it first") from None
            except OSError as error:
                raise EnvironmentFault(f"{file.name} can't be locked: {error.strerror}") from error
            yield

    def is_searched(self) -> bool:
        """Whether a search is running in this folder.

        Raises:
            EnvironmentFault: the lock can't be read.
        """
        path = self.path / "search.lock"
        try:
            # for reading, so that it works in a read-only copy too
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        except OSError as error:
            raise EnvironmentFault(f"whether a search runs can't be told: {path}: {error.strerror}") from error
        return False

    def trial(self, number: int) -> TrialFolder:
        """The folder of a trial."""
        return TrialFolder(self.path / "trials" / f"{number:03d}")

    @property
    def refit(self) -> TrialFolder:
        """The folder of the refit: the winner's adapter, trained on the validation items too."""
        return TrialFolder(self.path / "refit")

    def baseline(self, name: str) -> TrialFolder:
        """The folder of a baseline's ranks on the validation lists, in a trial's format. Any text is a valid name."""
        return TrialFolder(self.path / "baselines" / quote(name, safe=" ,"))

    def zero_shot(self, model: str) -> tuple[TrialFolder, TrialFolder]:
        """The folders of the untrained model's two baselines: plain, and with its label prior divided out."""
        plain, without_prior = self.zero_shot_names(model)
        return self.baseline(plain), self.baseline(without_prior)

    @staticmethod
    def zero_shot_names(model: str) -> tuple[str, str]:
        """The names of the untrained model's two baselines: plain, and with its label prior divided out."""
        return f"zero-shot {model}", f"zero-shot {model}, no prior"

    def baselines(self) -> list[str]:
        """The names of the baselines with stored ranks, zero-shot models last."""
        names = [unquote(path.parent.name) for path in (self.path / "baselines").glob("*/ranks.parquet")]
        return sorted(names, key=lambda name: (name.startswith("zero-shot"), name))

    def left_out_baselines(self) -> dict[str, str]:
        """Why each baseline that was asked for was not scored, by its name."""
        return dict(self.read_manifest().get("left_out_baselines", {}))

    def imageless(self) -> list[str]:
        """Ids of items whose image could not be had when the study began; they have none in it since."""
        return list(self.read_manifest().get("imageless", []))

    def references(self) -> dict[str, dict[str, float]]:
        """The metrics of every baseline and of chance."""
        metrics = {name: summarise(self.baseline(name).read_ranks()[1]) for name in self.baselines()}
        return {**self.read_manifest()["references"], **metrics}

    def begin_readings(self) -> None:
        """Make the file of the test's readings, so that a lost or emptied one can be told from one that has none."""
        self.write_readings([])

    def write_readings(self, readings: Sequence[dict[str, Any]]) -> None:
        """Replace the file of the test's readings, by what the journal knows of them."""
        write_file(self.readings_file, "".join(map(as_line, [_NO_READING, *readings])))

    @property
    def readings_file(self) -> Path:
        """The record of the test's readings."""
        return self.path / "test_readings.jsonl"

    def readings(self) -> list[dict[str, Any]]:
        """Every reading of the test split, in order."""
        return [line for line in self._lines_of_readings() if line["trial"] >= 0]

    def readings_are_begun(self) -> bool:
        """Whether their file has the line that it begins with."""
        return self._lines_of_readings()[:1] == [_NO_READING]

    def _lines_of_readings(self) -> list[dict[str, Any]]:
        return read_lines(self.readings_file, {"time": str, "trial": int})

    @property
    def lost_readings(self) -> Path:
        """Exists once the record of the test's readings was lost; then nobody knows whether the test was read."""
        return self.path / "readings_lost.json"

    def start_trial(self, number: int, config: TrialConfig, origin: Origin = DRAWN) -> None:
        """Prepare a trial's folder. A resumed trial keeps its files."""
        folder = self.trial(number)
        with writing(folder.path):
            make_folder(folder.path)
            self._stop_file(number).unlink(missing_ok=True)
        if not folder.has_config(config):  # else it stays what the journal knows it by
            folder.write_config(config)
        self.write_status(number, TrialStatus.RUNNING, origin=origin)

    def write_status(
        self, number: int, status: TrialStatus, cause: str = "", ours: bool = False, origin: Origin | None = None
    ) -> None:
        """Store a trial's status. `ours` marks a failure that the user can't fix; `origin` None keeps the old one."""
        origin_text = self.read_status(number).get("origin", "") if origin is None else str(origin)
        facts = {"status": status.value, "cause": encodable(masked(cause)), "ours": ours, "origin": origin_text}
        write_json(self.trial(number).path / "status.json", facts)

    def ask_to_stop(self, number: int, status: TrialStatus, cause: str = "") -> None:
        """Ask a running trial to end soon, with this status and cause."""
        write_json(self._stop_file(number), {"status": status.value, "cause": cause})

    def asked_to_stop(self, number: int) -> tuple[TrialStatus, str] | None:
        """(status, cause) if the trial was asked to end, else None."""
        if not self._stop_file(number).exists():
            return None
        request = read_json(self._stop_file(number), {"status": TrialStatus, "cause": str})
        return TrialStatus(request["status"]), request["cause"]

    def keep(self, number: int) -> None:
        """Let a trial train all its epochs, whatever a scheduler thinks of it."""
        write_json(self.trial(number).path / "keep.json", {})

    def is_kept(self, number: int) -> bool:
        """Whether it was asked to be."""
        return (self.trial(number).path / "keep.json").exists()

    def _stop_file(self, number: int) -> Path:
        return self.trial(number).path / "stop.json"

    def record_act(self, text: str) -> None:
        """Record an action on the search: by hand, by a budget, by a signal."""
        append_line(self.path / "acts.jsonl", {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "act": masked(text)})

    def acts(self) -> list[dict[str, str]]:
        """The recorded actions on the search, in order."""
        return read_lines(self.path / "acts.jsonl", {"time": str, "act": str})

    def write_ending(self, reason: str, complete: bool) -> None:
        """Store why the search ended, and whether it is complete, with nothing left to resume."""
        write_json(self.path / "ending.json", {"reason": masked(reason), "complete": complete})

    def read_ending(self) -> dict[str, Any]:
        """`reason` and `complete`; the reason is empty if the search is running or died."""
        path, fields = self.path / "ending.json", {"reason": str, "complete": bool}
        return read_json(path, fields) if path.exists() else {"reason": "", "complete": False}

    def read_status(self, number: int) -> dict[str, Any]:
        """A trial's status, cause, origin and `ours`."""
        return read_json(self.trial(number).path / "status.json", {"status": TrialStatus, "cause": str})

    def numbers(self) -> list[int]:
        """The numbers of all started trials that are not left out."""
        folders = [path.parent.name for path in (self.path / "trials").glob("*/status.json")]
        return sorted({int(name) for name in folders if name.isdecimal()} - self.left_out().keys())

    def running(self) -> list[int]:
        """The numbers of trials that are running, or were when a search was killed."""
        return [number for number in self.numbers() if self.read_status(number)["status"] == TrialStatus.RUNNING]

    def leave_out(self, number: int, why: str) -> None:
        """Exclude a trial with damaged files for good."""
        append_line(self.path / "left_out.jsonl", {"trial": number, "why": why})

    def left_out(self) -> dict[int, str]:
        """The reason for each excluded trial, by number."""
        lines = read_lines(self.path / "left_out.jsonl", {"trial": int, "why": str})
        return {line["trial"]: line["why"] for line in lines}

    def trials(self, *, but: Collection[int] = ()) -> Iterator[StoredTrial]:
        """Every started trial, by number; those of the numbers in `but` are not read."""
        name = self.name
        for number in sorted(set(self.numbers()).difference(but)):
            folder, status = self.trial(number), self.read_status(number)
            yield StoredTrial(
                number,
                folder.read_config().model_dump(mode="json"),
                TrialStatus(status["status"]),
                status["cause"],
                folder.read_reports(),
                Origin.parse(status.get("origin", "")),
                tuple(folder.read_notes()),
                name,
            )

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Store versions, command, data fingerprint, metric, searched knobs, and the scores of baselines and chance."""
        write_json(self.path / "manifest.json", manifest)

    def read_manifest(self) -> dict[str, Any]:
        """What `write_manifest` stored."""
        return read_json(self.path / "manifest.json", {"metric": str})

    def read_data_config(self) -> DataConfig:
        """The data that the study's trials were trained and scored on."""
        try:
            return TypeAdapter(DataConfig).validate_python(self.read_sections()["data"])
        except (KeyError, ValidationError):
            raise DamagedFile(self.study_file, "is damaged: it does not say what its data are") from None

    def read_sections(self) -> dict[str, Any]:
        """The resolved study file, by section."""
        return read_yaml(self.study_file)


def _remove_leftovers(runs: Path) -> None:
    """Remove what killed starts left: hidden, old and unlocked folders."""
    for path in runs.iterdir():
        try:
            if _LEFTOVER.fullmatch(path.name) and time.time() - path.stat().st_mtime > _OLD_S:
                with StudyFolder(path).locked():
                    shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
