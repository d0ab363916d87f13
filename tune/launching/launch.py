"""A search's frame: the study's lock, the log of what libraries print, and an orderly end whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from reranker.command_line.entry_point import cause_of, working_on, write_trace
from reranker.data.assemble import RerankingData
from reranker.data.baselines.baseline_ranks import Baselines
from reranker.storage.atomic_files import write_yaml
from results.reporting.write_report import write_report
from results.study.optuna_journal import create_journal
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from results.study.tracking_address import keep_secret_uri
from tune.mirroring.mirror_thread import MirrorThread
from tune.remote_copies.remote_folder import RemoteFolder, let_exit
from tune.searching.stop_rules import INTERRUPTED
from tune.study_file.manifest import keep_baselines, keep_lists, make_manifest
from tune.study_file.study import Study
from tune.terminal.driver_log import DriverLog
from tune.terminal.printed_lines import resume_command

_COPY_S = 1800.0  # that the last pass of a copy may take: there may be adapters of gigabytes
_AT_ONCE_S = 5.0


def begin_study(
    study: Study,
    data: RerankingData,
    runs: Path,
    *,
    tracking_uri: str = "",
    command: Sequence[str] = (),
    baselines: Baselines | None = None,
    copy_to: RemoteFolder | None = None,
) -> StudyFolder:
    """A new study with all that is known before its first trial; whole, or not at all.

    Args:
        baselines: as `score_baselines` gives them; None: they are scored now.
        copy_to: where a copy will be kept, so that its name must be free there too.
    """

    def fill(folder: StudyFolder) -> None:
        write_yaml(folder.study_file, study.dump())
        keep_lists(study, data, folder)
        kept = keep_baselines(study, data, folder, baselines)
        manifest = make_manifest(study, data, tracking_uri, kept, command)
        folder.write_manifest(manifest)
        folder.begin_readings()
        keep_secret_uri(folder, tracking_uri)
        create_journal(folder.journal, study.name, minimise=study.mode == "min", manifest=manifest)

    def is_taken(name: str) -> bool:
        return copy_to is not None and copy_to.child(name).exists()

    return StudyFolder.create(runs, study.name, fill, is_taken)


class Launch:
    """What a search holds from before Ray is started until after it is gone."""

    def __init__(self) -> None:
        self._log, self._lock = DriverLog(), ExitStack()
        self._folder: StudyFolder | None = None
        self._copy: MirrorThread | None = None
        self._begun = False

    def __enter__(self) -> Self:
        self._log.__enter__()
        working_on(self._log.path)
        return self

    def hold(self, folder: StudyFolder) -> None:
        """Lock the study; from here on what libraries print, and traces, are in its log.

        Raises:
            StudyBusy: another process searches in it.
        """
        self._lock.enter_context(folder.locked())
        self._folder = folder
        self._log.keep_in(folder.path)
        working_on(folder.path / "driver.log", resume_command(folder))

    def begin(self, study: Study) -> None:
        """The search begins, or goes on: what the last launch wrote of its end is past."""
        assert self._folder is not None
        text, manifest = study.dump(), self._folder.read_manifest()
        if manifest.get("study") != text:
            self._folder.write_manifest(manifest | {"study": text})  # first: the study file is rebuilt from it
        write_yaml(self._folder.study_file, text)
        (self._folder.path / "ending.json").unlink(missing_ok=True)
        self._begun = True

    def keep(self, copy: MirrorThread) -> None:
        """Have the study's copy brought up once more when all else is done; `copy.trouble` says what it then lacks."""
        self._copy = copy

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._folder is not None and self._begun and error is not None:
                _close(self._folder, error)
            if self._copy is not None and not self._copy.finish(_AT_ONCE_S if _is_stop(error) else _COPY_S):
                let_exit()
        finally:
            self._lock.close()
            self._log.__exit__(kind, error, trace)


def _close(folder: StudyFolder, error: BaseException) -> None:
    """After a fault: the ending with its cause, running trials as cancelled, and a report as far as one can be made."""
    stopped = _is_stop(error)
    steps: list[Callable[[], object]] = [
        lambda: _cancel_running(folder),
        lambda: _end(folder, INTERRUPTED if stopped else cause_of(error)[0]),
    ]
    if not stopped:  # who presses Ctrl-C a second time does not want to wait
        steps.append(lambda: write_report(folder))
    for step in steps:
        try:
            step()
        except Exception as later:  # noqa: BLE001, the first fault is the one to be told
            write_trace(later, folder.path / "driver.log")


def _is_stop(error: BaseException | None) -> bool:
    return isinstance(error, KeyboardInterrupt)


def _cancel_running(folder: StudyFolder) -> None:
    for number in folder.running():
        folder.write_status(number, TrialStatus.CANCELLED)


def _end(folder: StudyFolder, reason: str) -> None:
    if not folder.read_ending()["complete"]:
        folder.write_ending(reason, complete=False)
