"""Check a study's folder against its journal and manifest → what was rebuilt, or which files are damaged.

A trial with lost files would silently be missing, and another one would win. So every command opens studies here:
everything in the journal must be in the folder. Files that others can restore are rebuilt, with a message; if any other
is damaged, there is no result.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reranker.command_line.printable_text import say
from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault, Fault, InputError
from reranker.metrics import METRIC_NAMES, Ranks, summarise
from reranker.report_figures import best_report, report_number
from reranker.storage.atomic_files import DamagedFile, read_lines, read_yaml, write_file, write_yaml
from reranker.trial_folder import ADAPTER_FACTS, TrialFolder
from results.study.optuna_journal import Journal, TrialRecord
from results.study.study_folder import StudyFolder, TrialStatus

_STATUS = {"complete": TrialStatus.COMPLETED, "pruned": TrialStatus.PRUNED, "fail": TrialStatus.FAILED}
_ROUNDING = 1e-6
_SHOWN = 5  # faults that are shown; in a badly damaged study the rest add nothing


def open_study(runs: Path, name: str, tell: Callable[[str], None] | None = None) -> StudyFolder:
    """An existing study whose folder agrees with its journal and manifest.

    Args:
        tell: receives a sentence for each rebuilt file; default: print to standard error.

    Raises:
        EnvironmentFault: there is none.
        DamagedFile, EnvironmentFault: one or several files are lost.
    """
    study = StudyFolder.open(runs, name)
    for sentence in check(study):
        (tell or _to_stderr)(sentence)
    return study


def check(study: StudyFolder) -> list[str]:
    """Rebuild the files that others can restore; returns a sentence for each.

    Raises:
        DamagedFile, EnvironmentFault: one or several files are lost for good; names them.
    """
    return _Check(study).run()


class _Check:
    """One check of a study: what was rebuilt, and what is lost."""

    def __init__(self, study: StudyFolder) -> None:
        self.study = study
        self.rebuilt: list[str] = []
        self.lost: list[DamagedFile] = []

    def run(self) -> list[str]:
        """Check every file; see `check`."""
        self.journal = Journal(self.study.journal)
        self.manifest = self._manifest()
        self._study_file()
        self._ending()
        records = self.journal.trials()
        left_out = self.study.left_out()
        for number, record in records.items():
            if number not in left_out:
                self._trial(number, record)
        for number in self.study.numbers():
            if number not in records and number not in left_out:
                self.lost.append(DamagedFile(self.study.journal, f"does not know trial {number}, which the folder has"))
        self._baselines()
        self._readings()
        if len(self.lost) == 1:
            raise self.lost[0]
        if self.lost:
            lines = [str(fault) for fault in self.lost[:_SHOWN]]
            more = len(self.lost) - len(lines)
            raise EnvironmentFault("\n".join([*lines, *([f"… and {more} more files like these"] if more else [])]))
        return self.rebuilt

    def _manifest(self) -> dict[str, Any]:
        try:
            return self.study.read_manifest()
        except DamagedFile as damage:
            if (manifest := self.journal.manifest) is None:
                raise
            self._rebuild(
                damage,
                "the journal",
                lambda: self.study.write_manifest(manifest | {"name": manifest.get("name", self.study.path.name)}),
            )
            return manifest

    def _study_file(self) -> None:
        try:
            read_yaml(self.study.study_file)
        except DamagedFile as damage:
            text = self.manifest.get("study")
            if text is None:
                self.lost.append(damage)
            else:
                self._rebuild(damage, "the manifest", lambda: write_yaml(self.study.study_file, text))

    def _ending(self) -> None:
        try:
            self.study.read_ending()
        except DamagedFile as damage:
            self._rebuild(
                damage,
                "",
                lambda: self.study.write_ending("not known, since ending.json was damaged", complete=False),
                "why the search ended is not known any more",
            )

    # Trials

    def damage_of(self, number: int, record: TrialRecord) -> DamagedFile | None:
        """The first file of a trial that is lost for good; None if the trial is sound."""
        self.journal, lost_before = Journal(self.study.journal), list(self.lost)
        self.manifest = self._manifest()
        self._trial(number, record)
        return next((fault for fault in self.lost if fault not in lost_before), None)

    def _trial(self, number: int, record: TrialRecord) -> None:
        folder = self.study.trial(number)
        if not folder.path.exists() and not record.reports and record.state != "complete":
            return  # not started, or killed before its folder was made
        try:
            if not folder.path.exists():
                raise DamagedFile(folder.path, "is missing")
            self._status(number, record)
            self._config(folder)
            self._epochs(folder, record)
        except DamagedFile as damage:
            remedy = f"restore it from a copy, or leave the trial out with: {_leave_out(self.study, number)}"
            self.lost.append(DamagedFile(damage.path, damage.damage, remedy))

    def _status(self, number: int, record: TrialRecord) -> None:
        journal_status = _STATUS.get(record.state)
        cause = record.cause or (
            "its cause was lost with its status.json" if journal_status is TrialStatus.FAILED else ""
        )
        status = journal_status or TrialStatus.CANCELLED

        def write() -> None:
            self.study.write_status(number, status, cause, ours=record.ours, origin=record.origin)

        try:
            stored = TrialStatus(self.study.read_status(number)["status"])
        except DamagedFile as damage:
            self._rebuild(damage, "the journal", write)
            return
        if journal_status and stored in _STATUS.values() and stored is not journal_status:
            path = self.study.trial(number).path / "status.json"
            self._rebuild(
                DamagedFile(path, f"says {stored.value}, the journal {journal_status.value}"), "the journal", write
            )

    def _config(self, folder: TrialFolder) -> None:
        try:
            folder.read_config()
        except DamagedFile as damage:
            try:
                facts = json.loads((folder.adapter / ADAPTER_FACTS).read_text(encoding="utf-8"))
                config = TrialConfig.model_validate(facts["config"])
            except (OSError, ValueError, KeyError, TypeError):
                raise damage from None
            self._rebuild(damage, "its adapter", lambda: folder.write_config(config))

    def _epochs(self, folder: TrialFolder, record: TrialRecord) -> None:
        """The figures must be the journal's, and every report must have the ranks that give its figures."""
        path, metric = folder.path / "epochs.jsonl", self.manifest["metric"]
        stored = {report_number(figures): figures for figures in folder.read_reports()}
        for number, value in record.reports.items():
            if number not in stored:
                raise DamagedFile(path, f"lacks report {number}, which the journal knows")
            if stored[number].get(metric) != value:
                raise DamagedFile(path, f"says {stored[number].get(metric)} of report {number}, the journal {value}")
        if not stored or not self.manifest["plan"].get("validation_lists"):
            return
        for number, figures in stored.items():
            if not _gives(folder.read_report(number)[0], figures):
                raise DamagedFile(
                    folder.report(number), f"gives other figures than report {number} of epochs.jsonl has"
                )
        chosen = best_report(stored.values(), metric)
        if chosen is not None:
            self._best_ranks(folder, report_number(chosen), running=record.state == "running")

    def _best_ranks(self, folder: TrialFolder, chosen: int, *, running: bool) -> None:
        """`ranks.parquet` must be the chosen report's; in a running trial it may be a newer one."""
        ranks, picks = folder.read_report(chosen)
        path = folder.path / "ranks.parquet"
        try:
            _, stored = folder.read_ranks()
            is_same = np.array_equal(stored.greater, ranks.greater) and np.array_equal(stored.ties, ranks.ties)
            if not is_same and not running:
                raise DamagedFile(path, f"is not that of report {chosen}, the best one")
        except DamagedFile as damage:
            users = next((ids for ids in self._user_ids() if len(ids) == len(ranks.greater)), [])
            if not users:
                raise
            self._rebuild(damage, "its reports", lambda: folder.keep_ranks(users, ranks, picks))

    def _user_ids(self) -> Iterator[list[str]]:
        """The ids of the users with ranked lists, from each baseline; all are the same."""
        for name in self.study.baselines():
            with contextlib.suppress(DamagedFile):
                yield self.study.baseline(name).read_user_ids()

    # Baselines and the sealed test

    def _baselines(self) -> None:
        reported = {**self.manifest["references"], **self.journal.baselines}
        for name, figures in reported.items():
            if name == "chance":
                continue
            try:
                folder = self.study.baseline(name)
                if folder.read_figures() == {} and name in self.journal.baselines and name.startswith("zero-shot"):
                    raise DamagedFile(folder.path / "figures.json", "is missing")
                if not _gives(folder.read_ranks()[1], figures):
                    raise DamagedFile(folder.path / "ranks.parquet", "gives other figures than were reported")
            except DamagedFile as damage:
                self.lost.append(damage)

    def _readings(self) -> None:
        """Both the journal and the file hold every reading, so that none is lost with one of them."""
        path, recorded = self.study.path / "test_readings.jsonl", self.journal.readings
        try:
            stored = read_lines(path)
        except DamagedFile as damage:
            if not recorded:
                self.lost.append(damage)
                return
            stored = []
        if len(stored) < len(recorded):
            count = f"{len(recorded)} reading" + "s" * (len(recorded) != 1)
            missing = DamagedFile(path, f"lacks what the journal knows: {count} of the test")
            lines = self.study.readings_text(recorded)
            self._rebuild(missing, "the journal", lambda: write_file(path, lines))
        elif len(stored) > len(recorded):
            self.lost.append(
                DamagedFile(self.study.journal, "lacks a reading of the test that test_readings.jsonl has")
            )

    def _rebuild(self, damage: DamagedFile, source: str, write: Callable[[], None], instead: str = "") -> None:
        """Write a file again, unless a search is running, which may be writing it."""
        with self.study.locked():
            write()
        self.rebuilt.append(f"{damage.path} {damage.damage}; {instead or f'it was rebuilt from {source}'}")


def _gives(ranks: Ranks, figures: Mapping[str, float]) -> bool:
    """Whether the figures follow from these ranks."""
    if not len(ranks.greater):
        return False
    scored = summarise(ranks)
    return all(abs(scored[name] - figures[name]) < _ROUNDING for name in METRIC_NAMES if name in figures)


def _leave_out(study: StudyFolder, number: int) -> str:
    return f"python -m results.integrity {shlex.quote(str(study.path))} --leave-out {number}"


def _to_stderr(sentence: str) -> None:
    say(sentence, error=True)


def leave_out(study: StudyFolder, number: int) -> None:
    """Exclude a damaged trial. Sound trials can't be excluded, since that would be picking results.

    Raises:
        InputError: the trial is not damaged, or there is none with this number.
    """
    records = Journal(study.journal).trials()
    if number not in records:
        raise InputError([Fault("there is no such trial", field="--leave-out", value=number)])
    with study.locked():
        pass
    inspection = _Check(study)
    damage = inspection.damage_of(number, records[number])
    if damage is None:
        raise InputError([Fault("only a damaged trial can be left out", field="--leave-out", value=number)])
    study.leave_out(number, f"{damage.path.name} {damage.damage}")
    study.record_act(f"trial {number} is left out: {damage.path.name} {damage.damage}")
