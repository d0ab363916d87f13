"""A study's folder → every damaged file in it, and what was done: rebuilt, put aside, or refused."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from reranker.artifacts.trial_folder import TrialFolder
from reranker.errors import RerankerError
from reranker.storage.atomic_files import (
    DamagedFile,
    read_bytes,
    read_text,
    write_file,
    write_json,
)
from reranker.storage.file_permissions import make_folder
from results.leaderboard import leaderboard
from results.reporting.spreadsheet import as_csv
from results.reporting.write_report import write_report
from results.study.checked_folder import inspect
from results.study.damaged_file import FileFinding, Outcome
from results.study.optuna_journal import Journal, repair
from results.study.quarantine import put_aside
from results.study.side_files import check_kept_adapter, inspect_side_files
from results.study.study_folder import StudyFolder
from tune.study_file import loading
from tune.study_file.manifest import restore_baselines


def mend(study: StudyFolder) -> list[FileFinding]:
    """Check every file of a study, and mend what can be mended; takes the time to read them all, and where baselines are
    lost that of preparing the data.

    Raises:
        StudyBusy: a search is running in it.
    """
    with study.locked():
        repair(study.journal)
    findings = inspect(study)
    mended = [*_lost_readings(study, findings), *_lost_baselines(study, findings)]
    if mended:
        findings = [*mended, *inspect(study)]
    if not any(finding.outcome is Outcome.REFUSED for finding in findings):
        findings += [_fetched(study, finding) or finding for finding in inspect_side_files(study)]
        findings += _report(study, is_stale=bool(findings))
    return findings


def _lost_readings(study: StudyFolder, findings: list[FileFinding]) -> Iterator[FileFinding]:
    """Where the record of the test's readings can't be restored, have it say so: the next reading needs a reason."""
    for finding in findings:
        if finding.outcome is not Outcome.REFUSED:
            continue
        if finding.damage.path == study.readings_file:
            recorded = Journal(study.journal).readings
            with study.locked():
                put_aside(study, study.readings_file)
                write_json(study.lost_readings, {"damage": finding.damage.damage})
                study.write_readings(recorded)
            study.record_act("the record of the test's readings was lost")
            done = "that it was lost is on record: the next reading of the test takes --unseal WHY"
            yield FileFinding(finding.damage, Outcome.QUARANTINED, done)
        elif finding.damage.path == study.journal and "lacks a reading" in finding.damage.damage:
            with study.locked():
                journal = Journal(study.journal)
                for reading in study.readings()[len(journal.readings) :]:
                    journal.remember_reading(reading)
            yield FileFinding(finding.damage, Outcome.REBUILT, "it was added from test_readings.jsonl")


def _lost_baselines(study: StudyFolder, findings: list[FileFinding]) -> Iterator[FileFinding]:
    """Score baselines anew whose files are lost; that they give the figures on record is checked afterwards."""
    folder = study.path / "baselines"
    lost = {
        unquote(finding.damage.path.relative_to(folder).parts[0]): finding
        for finding in findings
        if finding.outcome is Outcome.REFUSED and finding.damage.path.is_relative_to(folder)
    }
    if not lost:
        return
    try:
        restored = restore_baselines(loading.load(study.study_file), study, list(lost))
    except RerankerError:  # such as data that are not here any more
        return
    for name in restored:
        yield FileFinding(lost[name].damage, Outcome.REBUILT, "it was scored again on the study's data")


def _fetched(study: StudyFolder, finding: FileFinding) -> FileFinding | None:
    """Take a trial's adapter from MLflow, where it is damaged and MLflow has a whole copy; it has the winner's."""
    if finding.trial is None or finding.outcome is not Outcome.REFUSED:
        return None
    folder = study.trial(finding.trial)
    if not finding.damage.path.is_relative_to(folder.adapter):
        return None

    from tune.mlflow_tracking.kept_adapters import fetch  # takes seconds

    with tempfile.TemporaryDirectory() as place:
        copy = TrialFolder(Path(place))
        if fetch(study, finding.trial, copy.path) is None:
            return None
        for name in ("config.json", "epochs.jsonl"):
            shutil.copy(folder.path / name, copy.path)
        try:
            check_kept_adapter(copy, study.read_manifest()["metric"])
        except RerankerError:  # it is damaged as well, or of an earlier report
            return None
        with study.locked():
            put_aside(study, folder.adapter)
            make_folder(folder.adapter)
            for file in copy.adapter.iterdir():
                write_file(folder.adapter / file.name, read_bytes(file))
    return FileFinding(finding.damage, Outcome.REBUILT, "it was fetched from MLflow, with the rest of the adapter")


def _report(study: StudyFolder, *, is_stale: bool) -> Iterator[FileFinding]:
    """Write the report and the tables anew where one is not what the study gives."""
    damage = next(filter(None, (_damage(study, path) for path in _derived(study))), None)
    if damage is not None or is_stale:
        write_report(study)
    if damage is not None:
        yield FileFinding(damage, Outcome.REBUILT, "the report and its tables were written anew")


def _derived(study: StudyFolder) -> list[Path]:
    pages = [study.report, study.report.with_suffix(".md")]
    return [study.leaderboard, *(path for path in (*pages, study.best_config) if path.exists())]


def _damage(study: StudyFolder, path: Path) -> DamagedFile | None:
    if not study.leaderboard.exists() and not study.report.exists():
        return None  # the search has not come to that
    try:
        text = read_text(path)
    except DamagedFile as damage:
        return damage
    if path == study.leaderboard and text != as_csv(leaderboard(study)):
        return DamagedFile(path, "is not the study's leaderboard")
    if path == study.report and not text.rstrip().endswith("</html>"):
        return DamagedFile(path, "is cut short")
    return None if text.strip() else DamagedFile(path, "is empty")
